"""What the package was attacked with, and what it survived: `python -m benchmarks.reliability --help`."""
