"""A text's tokens, with what is cut from them, what is repeated for media, and what is put beside them to fill a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np


# First character, and the one behind the last.
Span = tuple[int, int]


class Text(NamedTuple):
    """What is tokenised.

    Attributes:
        text: with one placeholder token for each medium.
        said: what of it the assistant said.
        marked: whether control tokens that somebody typed are marked in it; they are read as plain text.
        complete: whether it brings the tokens that a tokenizer puts in front of a text and behind it.
    """

    text: str
    said: Sequence[Span] = ()
    marked: bool = False
    complete: bool = False


@dataclass
class Prompt:
    """The tokens of one text, with one for each placeholder.

    Attributes:
        ids: `(tokens,)` int64.
        is_medium: `(tokens,)` bool, which are placeholders.
        repeats: `(tokens,)` int64, how often the model's input has each: 1, or the number of tokens of a medium, once
            `PromptTokenizer.place_media` was told.
        offsets: `(tokens, 2)` int64, the characters of each; 0 and 0 for what the tokenizer adds. A tokenizer that does
            not tell gives those of a longer stretch.
        said: `(tokens,)` bool, which the assistant said.
    """

    ids: np.ndarray
    is_medium: np.ndarray
    repeats: np.ndarray
    offsets: np.ndarray
    said: np.ndarray

    def __len__(self) -> int:
        """Tokens of the model's input."""
        return int(self.repeats.sum())

    def count(self, token_id: int) -> int:
        """How many of its tokens are this one."""
        return int((self.ids == token_id).sum())

    @property
    def labels(self) -> np.ndarray:
        """`(tokens,)` int64: the ids of the words that the assistant said, elsewhere -100."""
        return np.where(self.said & ~self.is_medium, self.ids, -100)

    def expanded(self) -> Prompt:
        """With an id for each token of a medium."""
        prompt = self._each(lambda values: np.repeat(values, self.repeats, axis=0))
        prompt.repeats = np.ones_like(prompt.ids)
        return prompt

    def _each(self, function: Callable[[np.ndarray], np.ndarray]) -> Prompt:
        return Prompt(*(function(getattr(self, field.name)) for field in fields(self)))

    def truncated(self, limit: int, side: str, where: str) -> Prompt:
        """Cut on one side to `limit` tokens. Raises ValueError, which names it `where`, if that would cut a medium."""
        if len(self) <= limit:
            return self
        left, size = side == "left", len(self.ids)
        ends = np.cumsum(self.repeats[::-1] if left else self.repeats)
        count = int(np.searchsorted(ends, limit, side="right"))
        lost = slice(size - count) if left else slice(count, None)
        if self.is_medium[lost].any():
            raise ValueError(
                f"{where} has {len(self)} tokens; truncation to max_length={limit} would cut a medium of "
                f"{self.repeats[lost].max()} tokens. Raise max_length, shorten the text, or give fewer media."
            )
        kept = slice(size - count, None) if left else slice(count)
        return self._each(lambda values: values[kept])

    def without_last_words(self, count: int) -> Prompt | None:
        """Without the last `count` tokens that are no medium; None if there are fewer, or no labels would be left."""
        words = np.flatnonzero(~self.is_medium)
        if count > len(words):
            return None
        kept = np.ones(len(self.ids), dtype=bool)
        kept[words[len(words) - count :]] = False
        prompt = self._each(lambda values: values[kept])
        return prompt if (prompt.labels >= 0).any() else None


def pad(
    rows: Sequence[np.ndarray], value: int, length: int | None = None, multiple: int | None = None, side: str = "right"
) -> list[np.ndarray]:
    """Rows `(tokens, ...)`, filled with `value` on one side up to `length` (the longest row's if left out), or the next
    multiple of `multiple`. Longer ones are left as they are."""
    length = max(map(len, rows), default=0) if length is None else length
    length = -(-length // (multiple or 1)) * (multiple or 1)
    filled = []
    for row in rows:
        padding = np.full((max(length - len(row), 0), *row.shape[1:]), value, dtype=row.dtype)
        filled.append(np.concatenate([padding, row] if side == "left" else [row, padding]))
    return filled


def count_error(modality: str, token: str, places: int, given: int) -> str:
    """What to say of a text that has more or fewer placeholders than media, behind its name."""
    problem = f"has {places} {token} placeholders, but {given} media of {modality!r}."
    if given < places:
        return (
            f'{problem} Each content part of type "{modality}" needs one medium, in the part or apart, in their order. '
            f"Was {token} typed into the text?"
        )
    return (
        f"{problem} A placeholder is missing from the text: the chat template writes it for content parts of type "
        f'"{modality}". A {token} that is typed into messages is text: write parts, or convert the file by '
        "`anymodality data convert markers`."
    )
