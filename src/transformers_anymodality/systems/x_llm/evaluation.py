"""X-LLM's judge (https://arxiv.org/abs/2305.04160, section 4): a language model scores each answer beside a reference's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...evaluation.scores import Score, register_score
from ...evaluation.tasks import QUESTIONS, Rating, Task, rated, register_task


_REVIEW = """\
Question:
{question}

What is known of the medium:
{context}

Answer 1:
{reference}

Answer 2:
{answer}

Two assistants answered the question above. Rate each answer for how helpful, relevant, accurate and detailed it is, with
a score from 1 to 10, higher is better. The order of the answers must not matter. Write the two scores, that of answer 1
first, separated by a space and nothing else on the first line. Then explain them.
"""


@register_score("relative_score")
class RelativeScore(Score):
    """`100 * mean(model's scores) / mean(reference's scores)`, both by the same judge from 1 to 10 (X-LLM,
    https://arxiv.org/abs/2305.04160, section 4, after LLaVA)."""

    prediction = "pair"
    needs_references = False

    def row(self, prediction: Sequence[float], references: Sequence[str]) -> Sequence[float]:
        """The reference's score, and the model's."""
        if len(prediction) != 2 or min(prediction) <= 0:
            raise ValueError("needs two positive scores, the reference's and the model's.")
        return prediction

    def total(self, rows: np.ndarray) -> dict[str, float]:
        reference, model = rows.mean(axis=0).tolist()
        return {
            self.name: 100 * model / reference,
            f"{self.name}_model": model,
            f"{self.name}_reference": reference,
        }


def _pair(record: Mapping[str, Any]) -> list[float]:
    scores = next((record[key] for key in ("scores", "tuple", "rating") if record.get(key) is not None), None)
    if scores is None:
        return parse_review(next((record[key] for key in ("content", "review") if record.get(key)), ""))
    if not isinstance(scores, list) or len(scores) != 2 or not all(isinstance(one, (int, float)) for one in scores):
        raise ValueError(f"its scores are {scores!r}, expected two numbers.")
    return [float(one) for one in scores]


def parse_review(review: str) -> list[float]:
    """The two numbers of a review's first line.

    Raises:
        ValueError: there are other than two, or they are not from 1 to 10.
    """
    first = (review.strip().splitlines() or [""])[0]
    scores = [float(one) for one in re.findall(r"\d+(?:\.\d+)?", first)]
    if len(scores) != 2 or not all(1 <= one <= 10 for one in scores):
        raise ValueError(f"its first line is {first!r:.80}, expected two scores from 1 to 10.")
    return scores


register_task(
    "x_llm_relative",
    Task(
        help="answers judged against a reference's: X-LLM's relative score, by category (arXiv 2305.04160)",
        prompt="{question}",
        metrics={"relative_score": ("relative_score", rated)},
        questions=(*QUESTIONS, "text"),
        rating=Rating(_pair, prompt=_REVIEW, parse=parse_review),
        keeps=("context", "category"),
        groups=("category",),
        max_new_tokens=512,
    ),
)
