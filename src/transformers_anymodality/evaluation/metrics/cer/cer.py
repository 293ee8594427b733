"""Character error rate, for `evaluate.load`."""

from transformers_anymodality.evaluation.metrics import module


class Cer(module.ScoreModule):
    score = "cer"
