"""Using a checkpoint: conversations, server, demo, and other engines."""
