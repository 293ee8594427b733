"""Helpers that every folder may use; they use none of the folders."""
