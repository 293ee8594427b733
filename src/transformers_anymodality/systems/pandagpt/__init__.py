"""PandaGPT: six modalities of ImageBind, one linear layer ([2305.16355](https://arxiv.org/abs/2305.16355))."""

from .preset import SENSES, pandagpt


__all__ = ["SENSES", "pandagpt"]
