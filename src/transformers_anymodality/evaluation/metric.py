"""Every score as a module of `evaluate`, offline: `evaluate.load(METRIC, "cider")`; METRIC is the path of this file.

`evaluate` runs a copy of this file from its own folder.
"""

import inspect
from typing import Any

import datasets
import evaluate

from transformers_anymodality.evaluation.scores import SCORES


_TYPES = {"string": datasets.Value("string"), "float": datasets.Value("float64")}
_TYPES["pair"] = datasets.List(datasets.Value("float64"))


class ScoreModule(evaluate.Metric):
    """`compute(predictions=[...], references=[[...], ...])` returns the score that the config names."""

    def _info(self) -> evaluate.MetricInfo:
        score = SCORES[self.config_name]
        features = {
            "predictions": _TYPES[score.prediction],
            "references": datasets.List(datasets.Value("string")),
        }
        return evaluate.MetricInfo(
            description=inspect.getdoc(score),
            citation="",
            inputs_description="predictions: one per sample; references: a list of strings per sample.",
            features=datasets.Features(features),
        )

    def _compute(self, predictions: list[Any], references: list[list[str]]) -> dict[str, float]:
        return SCORES[self.config_name](predictions, references)
