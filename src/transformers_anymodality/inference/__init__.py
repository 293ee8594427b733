"""Use of a checkpoint: conversations, server, demo, and other engines."""

# Names of this machine for the server and the demo: addresses to listen on, and host names in requests.
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
