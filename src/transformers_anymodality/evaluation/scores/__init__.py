"""Scores, each registered by its name; `METRIC` is what `evaluate.load(METRIC, name)` takes for them."""

from pathlib import Path

from ._base import SCORES, Score, register_score
from .answers import normalize_answer
from .captions import tokens


METRIC = str(Path(__file__).parent.with_name("metric.py"))

__all__ = ["METRIC", "SCORES", "Score", "normalize_answer", "register_score", "tokens"]
