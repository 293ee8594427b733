"""AnyMAL: a Perceiver resampler or one layer per modality ([2309.16058](https://arxiv.org/abs/2309.16058))."""

from .preset import SENSES, anymal, chat_template


__all__ = ["SENSES", "anymal", "chat_template"]
