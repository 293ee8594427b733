"""OwlEval's ratings, for `evaluate.load`."""

from transformers_anymodality.evaluation.metrics import module


class OwlRating(module.ScoreModule):
    score = "owl_rating"
