"""The processor: text, chats and media to model inputs."""
