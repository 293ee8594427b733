"""Area under the ROC curve, for `evaluate.load`."""

from transformers_anymodality.evaluation.metrics import module


class Auc(module.ScoreModule):
    score = "auc"
