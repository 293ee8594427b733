"""mPLUG-Owl's JSONL for instruction tuning, and OwlEval (https://arxiv.org/abs/2304.14178, section 4.2).

The JSONL has dialogues as one text, with and without images. People rate OwlEval's answers from A to D on a page.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...data.formats import chat, listed, register_format, words
from ...data.records import split_markers
from ...evaluation.scores import Score, register_score
from ...evaluation.tasks import Rating, Task, rated, register_task
from . import SYSTEM


_SPEAKER = re.compile(r"(?:\A|\n)(Human|AI):(?: |(?=\n)|\Z)")
_MARKERS = {"<image>": "image", "<|video|>": "video"}


@register_format(
    "mplug_owl",
    help="mPLUG-Owl's sft JSONL: task_type, image, and text with lines of Human: and AI:; text-only rows, too",
    example={
        "task_type": "llava_sft",
        "image": ["imgs/0001.jpg"],
        "prompt": "",
        "text": f"{SYSTEM}\nHuman: <image>\nHuman: What animal is this?\nAI: A grey cat.",
    },
)
def convert(record: Mapping[str, Any], index: int, media_root: Path | None) -> Iterator[dict[str, Any]]:
    """Makes lines of a human that follow each other one turn.

    Text before the first speaker is the system's. It is left out if it is mPLUG-Owl's own line, which the template writes.
    Speakers are found at the beginning of lines only; the original takes any `AI: `. In rows without media, `<image>` is
    text. `task_type` is kept, for mixtures.
    """
    images, videos = listed(record.get("image")), listed(record.get("video"))
    media = {"<image>": images, "<|video|>": videos}
    tokens = {token: name for token, name in _MARKERS.items() if media[token]}
    system, *pieces = _SPEAKER.split((record.get("prompt") or "") + record["text"])
    if not pieces:
        raise ValueError("its text has no line of Human: or AI:")
    turns: list[tuple[str, Any]] = []
    for speaker, said in zip(pieces[::2], pieces[1::2], strict=True):
        parts = split_markers(said, tokens) if tokens else words(said)
        if speaker == "Human" and turns and turns[-1][0] == "user":
            turns[-1][1].extend(parts)
        else:
            turns.append(("user" if speaker == "Human" else "assistant", parts))
    if system.strip() and system.strip() != SYSTEM:
        turns.insert(0, ("system", system.strip()))
    yield chat(*turns, images=images, videos=videos, task_type=record.get("task_type"))


# --- benchmarks ------------------------------------------------------------------------------------------------------


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
        """Four numbers, of which one is 1."""
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
