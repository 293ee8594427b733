"""The `anymodality` command. Importing it loads neither torch nor Transformers."""
