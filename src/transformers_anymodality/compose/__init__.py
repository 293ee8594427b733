"""From parts to one model: `compose`."""

from .compose import compose


__all__ = ["compose"]
