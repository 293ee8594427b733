"""A small world with one concept, the digit, and six senses of it, all kept in real files."""
