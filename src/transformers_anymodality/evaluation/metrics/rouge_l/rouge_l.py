"""ROUGE-L, for `evaluate.load`."""

from transformers_anymodality.evaluation.metrics import module


class RougeL(module.ScoreModule):
    score = "rouge_l"
