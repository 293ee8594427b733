"""OwlEval's ratings, for `evaluate.load`."""

from .. import module


class OwlRating(module.ScoreModule):
    score = "owl_rating"
