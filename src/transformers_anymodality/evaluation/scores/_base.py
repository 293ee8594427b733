"""A score: numbers of each sample, and what they add up to.

Both apart, so that a run can be scored again on resampled samples: the bootstrap needs no other code per metric.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...utils.registry import LazyRegistry


class Score:
    """Base of all scores; the registered name is the name of its main number. The docstring of each says what it is, its
    range, and where it was published.

    Attributes:
        prediction: what a prediction is: "string", "float" for a probability, "pair" for two scores.
        needs_references: whether a sample without is an error.
    """

    name = ""
    prediction = "string"
    needs_references = True

    def rows(self, predictions: Sequence[Any], references: Sequence[Sequence[str]]) -> np.ndarray:
        """`(samples, numbers)` float64, for as many predictions as lists of references."""
        raise NotImplementedError

    def total(self, rows: np.ndarray) -> dict[str, float]:
        """The score of samples with these rows, by name; the mean unless said otherwise."""
        return {self.name: float(rows[:, 0].mean())}

    def __call__(self, predictions: Sequence[Any], references: Sequence[Sequence[str]]) -> dict[str, float]:
        """The score of all samples.

        Raises:
            ValueError: none, or as many predictions as references there are not, or a sample has no reference.
        """
        return self.total(self.checked_rows(predictions, references))

    def checked_rows(self, predictions: Sequence[Any], references: Sequence[Sequence[str]]) -> np.ndarray:
        if len(predictions) != len(references):
            raise ValueError(
                f"{self.name}: {len(predictions)} predictions, but {len(references)} lists of references."
            )
        if not len(predictions):
            raise ValueError(f"{self.name} of no samples is not defined.")
        for i, several in enumerate(references if self.needs_references else ()):
            if isinstance(several, str) or not len(several):
                raise ValueError(f"{self.name}: sample {i} has no list of references, but {several!r}.")
        return self.rows(predictions, references)


SCORES: LazyRegistry[Score] = LazyRegistry("score")


def register_score(name: str) -> Callable[[type[Score]], type[Score]]:
    """Class decorator: makes a score known by its name."""

    def register(cls: type[Score]) -> type[Score]:
        cls.name = name
        SCORES.register(name, cls())
        return cls

    return register
