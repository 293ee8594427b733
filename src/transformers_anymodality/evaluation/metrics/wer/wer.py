"""Word error rate, for `evaluate.load`."""

from transformers_anymodality.evaluation.metrics import module


class Wer(module.ScoreModule):
    score = "wer"
