"""A small world with one concept, the digit, and six modalities of it, all kept in real files."""

import transformers_anymodality  # noqa: F401 (first: it keeps other libraries from logging while they are imported)
