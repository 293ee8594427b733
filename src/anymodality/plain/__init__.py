"""Code without torch and Transformers, used by the command and the package."""
