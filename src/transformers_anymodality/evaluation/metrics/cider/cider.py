"""CIDEr-D, for `evaluate.load`."""

from .. import module


class Cider(module.ScoreModule):
    score = "cider"
