"""Area under the ROC curve, for `evaluate.load`."""

from .. import module


class Auc(module.ScoreModule):
    score = "auc"
