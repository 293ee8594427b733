"""Model cards, made from checkpoints themselves."""

from .card import Licences, make_card, strictest, write_card


__all__ = ["Licences", "make_card", "strictest", "write_card"]
