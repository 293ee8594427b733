"""Every score as a module of `evaluate`, offline: `evaluate.load(METRIC, "cider")`, METRIC being the path of this file.

`evaluate` runs a copy of this file from a folder of its own.
"""

import inspect
from typing import Any

import datasets
import evaluate

from transformers_anymodality.evaluation.scores import SCORES


_TYPES = {"string": datasets.Value("string"), "float": datasets.Value("float64")}
_TYPES["pair"] = datasets.List(datasets.Value("float64"))


class ScoreModule(evaluate.Metric):
    """`compute(predictions=[...], references=[[...], ...])` is what the score gives whose name is the config's."""

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
