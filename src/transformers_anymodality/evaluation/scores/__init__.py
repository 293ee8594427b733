"""Scores, each registered by its name; `evaluation/metrics` has them as modules of `evaluate`."""

from ._base import SCORES, Score, register_score
from .answers import normalize_answer
from .captions import Cider
from .ratings import RelativeScore
from .speech import Wer


__all__ = ["SCORES", "Cider", "RelativeScore", "Score", "Wer", "normalize_answer", "register_score"]
