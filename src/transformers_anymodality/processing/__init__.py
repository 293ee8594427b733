"""The processor: turns text, chats and media into model inputs."""
