"""VQA accuracy, for `evaluate.load`."""

from transformers_anymodality.evaluation.metrics import module


class VqaAccuracy(module.ScoreModule):
    score = "vqa_accuracy"
