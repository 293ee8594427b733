"""Using a checkpoint: conversations, server, demo, and other engines."""

# How this machine alone is reached, for the server and the demo: addresses to listen on, and as requests name them.
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
