"""Model cards, made from checkpoints themselves."""

from .card import Licences, make_card, write_card
from .licenses import strictest


__all__ = ["Licences", "make_card", "strictest", "write_card"]
