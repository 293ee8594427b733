"""A small world with one concept, the digit, and six modalities of it, all kept in real files."""
