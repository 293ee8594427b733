"""Scores of ratings: OwlEval's letters by people, and X-LLM's relative score by a judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ._base import Score, register_score


LETTERS = "ABCD"


@register_score("owl_rating")
class OwlRating(Score):
    """How many answers were rated A (correct and satisfying), B (acceptable, minor flaws), C (understood, but wrong) and D
    (irrelevant or invalid), and the share of A and B (mPLUG-Owl, https://arxiv.org/abs/2304.14178, section 4.2)."""

    help = "counts of A, B, C, D, and the share of A and B"
    needs_references = False

    def rows(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
        """One of four columns is 1."""
        for i, letter in enumerate(predictions):
            if letter not in tuple(LETTERS):
                raise ValueError(f"owl_rating: sample {i} is rated {letter!r}, expected one of A, B, C, D.")
        return np.asarray([[float(letter == one) for one in LETTERS] for letter in predictions])

    def total(self, rows: np.ndarray) -> dict[str, float]:
        counts = dict(zip(LETTERS.lower(), rows.sum(axis=0).tolist(), strict=True))
        return {self.name: float(rows[:, :2].sum() / len(rows))} | {
            f"{self.name}_{letter}": count for letter, count in counts.items()
        }


@register_score("relative_score")
class RelativeScore(Score):
    """`100 * mean(model's scores) / mean(reference's scores)`, both by the same judge from 1 to 10 (X-LLM,
    https://arxiv.org/abs/2305.04160, section 4, after LLaVA)."""

    help = "the judge's scores relative to the reference's, in per cent"
    prediction = "pair"
    needs_references = False

    def rows(self, predictions: Sequence[Any], references: Sequence[Sequence[str]]) -> np.ndarray:
        """The reference's score, and the model's."""
        rows = np.asarray(predictions, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != 2 or not (rows > 0).all():
            raise ValueError("relative_score: each sample needs two positive scores, the reference's and the model's.")
        return rows

    def total(self, rows: np.ndarray) -> dict[str, float]:
        reference, model = rows.mean(axis=0).tolist()
        return {
            self.name: 100 * model / reference,
            f"{self.name}_model": model,
            f"{self.name}_reference": reference,
        }
