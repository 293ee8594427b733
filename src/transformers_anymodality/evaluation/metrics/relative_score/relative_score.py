"""X-LLM's relative score, for `evaluate.load`."""

from .. import module


class RelativeScore(module.ScoreModule):
    score = "relative_score"
