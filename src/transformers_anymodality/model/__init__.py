"""The composite model: config, encoding of media into embeddings, generation, checkpoints."""
