"""What needs neither torch nor Transformers. The command and the package use it alike."""
