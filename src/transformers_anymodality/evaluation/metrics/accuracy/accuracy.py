"""Accuracy, for `evaluate.load`."""

from .. import module


class Accuracy(module.ScoreModule):
    score = "accuracy"
