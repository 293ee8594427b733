"""Accuracy, for `evaluate.load`."""

from transformers_anymodality.evaluation.metrics import module


class Accuracy(module.ScoreModule):
    score = "accuracy"
