"""Builds one model from parts: `compose`."""

from .compose import compose


__all__ = ["compose"]
