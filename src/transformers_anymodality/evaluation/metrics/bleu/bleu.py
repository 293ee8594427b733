"""BLEU, for `evaluate.load`."""

from transformers_anymodality.evaluation.metrics import module


class Bleu(module.ScoreModule):
    score = "bleu"
