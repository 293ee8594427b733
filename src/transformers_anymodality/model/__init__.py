"""The composite model: config, towers and aligners into embeddings, generation, checkpoints."""
