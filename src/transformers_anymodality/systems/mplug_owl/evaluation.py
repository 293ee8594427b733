"""OwlEval (https://arxiv.org/abs/2304.14178, section 4.2): answers that people rate A to D on a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...evaluation.scores import Score, register_score
from ...evaluation.tasks import Rating, Task, rated, register_task


_LETTERS = {
    "A": "correct and satisfying",
    "B": "acceptable, minor flaws",
    "C": "understood, but wrong",
    "D": "irrelevant or invalid",
}


@register_score("owl_rating")
class OwlRating(Score):
    """How many answers were rated A (correct and satisfying), B (acceptable, minor flaws), C (understood, but wrong) and D
    (irrelevant or invalid), and the share of A and B (mPLUG-Owl, https://arxiv.org/abs/2304.14178, section 4.2)."""

    needs_references = False

    def row(self, prediction: str, references: Sequence[str]) -> Sequence[float]:
        """One of four numbers is 1."""
        if prediction not in _LETTERS:
            raise ValueError(f"is rated {prediction!r}, expected one of A, B, C, D.")
        return [prediction == one for one in _LETTERS]

    def total(self, rows: np.ndarray) -> dict[str, float]:
        counts = zip(_LETTERS, rows.sum(axis=0).tolist(), strict=True)
        return {self.name: float(rows[:, :2].sum() / len(rows))} | {
            f"{self.name}_{letter.lower()}": count for letter, count in counts
        }


def _letter(record: Mapping[str, Any]) -> str:
    letter = str(record.get("rating", "")).strip().upper()
    if letter not in _LETTERS:
        raise ValueError(f"its rating is {record.get('rating')!r}, expected A, B, C or D.")
    return letter


def _released(line: Mapping[str, Any], model: str) -> dict[str, Any]:
    """An answer as OwlEval's release has it."""
    return {
        "image": line["kept"].get("image"),
        "question_id": line["id"],
        "question": line["question"],
        "answer": line["answer"],
        "model_id": model,
    }


register_task(
    "owleval",
    Task(
        help="OwlEval's questions, rated A to D by people on a page: counts, by ability (arXiv 2304.14178)",
        prompt="{question}",
        metrics={"owl_rating": ("owl_rating", rated)},
        needs_references=False,
        rating=Rating(_letter, choices=_LETTERS),
        keeps=("image", "ability", "category"),
        groups=("ability",),
        max_new_tokens=512,
        released=_released,
    ),
)
