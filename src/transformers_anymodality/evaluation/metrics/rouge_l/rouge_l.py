"""ROUGE-L, for `evaluate.load`."""

from .. import module


class RougeL(module.ScoreModule):
    score = "rouge_l"
