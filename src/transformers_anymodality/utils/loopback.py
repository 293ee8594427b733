"""How this machine alone is reached, for the server and the demo."""

ADDRESSES = ("127.0.0.1", "localhost", "::1")  # to listen on
HOSTS = ("127.0.0.1", "localhost", "[::1]")  # as requests name them
