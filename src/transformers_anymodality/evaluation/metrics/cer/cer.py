"""Character error rate, for `evaluate.load`."""

from .. import module


class Cer(module.ScoreModule):
    score = "cer"
