"""CIDEr-D, for `evaluate.load`."""

from transformers_anymodality.evaluation.metrics import module


class Cider(module.ScoreModule):
    score = "cider"
