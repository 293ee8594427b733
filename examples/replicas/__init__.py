"""The claims of five papers at small scale: `make replicas`, or `PYTHONPATH=examples python -m replicas pandagpt`."""
