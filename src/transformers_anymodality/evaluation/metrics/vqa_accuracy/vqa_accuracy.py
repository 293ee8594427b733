"""VQA accuracy, for `evaluate.load`."""

from .. import module


class VqaAccuracy(module.ScoreModule):
    score = "vqa_accuracy"
