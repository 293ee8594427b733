"""Error rates of transcripts, by jiwer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers.models.whisper.english_normalizer import BasicTextNormalizer

from ...utils.imports import require
from ._base import Score, register_score


_normalize = BasicTextNormalizer()


class _ErrorRate(Score):
    """Edits over the reference's length, both summed over the corpus. Texts are normalised as Whisper's evaluation does
    for languages other than English: lower case, no punctuation or symbols, nothing in brackets."""

    process = ""
    joiner = " "

    def rows(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
        """Of each sample: edits, and the length of its first reference."""
        process = getattr(require("jiwer", "eval"), self.process)
        rows = []
        for i, (said, several) in enumerate(zip(predictions, references, strict=True)):
            wanted = self.joiner.join(_normalize(several[0]).split())
            if not wanted:
                raise ValueError(f"{self.name}: the reference of sample {i} has no words: {several[0]!r}.")
            found = process(wanted, self.joiner.join(_normalize(said).split()))
            rows.append(
                [
                    found.substitutions + found.deletions + found.insertions,
                    found.hits + found.substitutions + found.deletions,
                ]
            )
        return np.asarray(rows, dtype=np.float64)

    def total(self, rows: np.ndarray) -> dict[str, float]:
        edits, length = rows.sum(axis=0)
        return {self.name: float(edits / length)}


@register_score("wer")
class Wer(_ErrorRate):
    help = "word error rate, 0 is best"
    process = "process_words"


@register_score("cer")
class Cer(_ErrorRate):
    """Of characters, spaces left out (as Chinese needs)."""

    help = "character error rate without spaces, 0 is best"
    process = "process_characters"
    joiner = ""
