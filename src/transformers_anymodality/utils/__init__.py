"""Helpers that every folder may import; they import no other folder."""
