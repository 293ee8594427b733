"""BLEU, for `evaluate.load`."""

from .. import module


class Bleu(module.ScoreModule):
    score = "bleu"
