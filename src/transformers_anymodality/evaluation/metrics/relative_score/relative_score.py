"""X-LLM's relative score, for `evaluate.load`."""

from transformers_anymodality.evaluation.metrics import module


class RelativeScore(module.ScoreModule):
    score = "relative_score"
