"""Word error rate, for `evaluate.load`."""

from .. import module


class Wer(module.ScoreModule):
    score = "wer"
