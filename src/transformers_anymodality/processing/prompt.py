"""A text's tokens, with what is cut from them, what is repeated for media, and what is put beside them to fill a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.utils import PaddingStrategy


# First character, and the one behind the last.
Span = tuple[int, int]
# What Transformers takes instead of a strategy's name.
_PADDING = {True: "longest", False: "do_not_pad"}
# A tokenizer that knows no limit has a larger one.
_NO_LIMIT = 10**9


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
        order = slice(None, None, -1 if side == "left" else 1)
        kept = np.cumsum(self.repeats[order])[order] <= limit
        if self.is_medium[~kept].any():
            raise ValueError(
                f"{where} has {len(self)} tokens; truncation to max_length={limit} would cut a medium of "
                f"{self.repeats[~kept].max()} tokens. Raise max_length, shorten the text, or give fewer media."
            )
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


def lay_out(
    prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase, settings: Mapping[str, Any], mask: bool = False
) -> dict[str, list]:
    """Prompts truncated, with a token for each of a medium's, and padded.

    Args:
        settings: the tokenizer's keyword arguments for truncation, padding, and what is returned.
        mask: whether `assistant_masks` are asked for.

    Returns:
        `input_ids` and what is asked for beside them: arrays if `return_tensors` asks for tensors, else lists.
    """
    if settings.get("truncation") not in (None, False, "do_not_truncate"):
        limit, side = settings.get("max_length") or tokenizer.model_max_length, tokenizer.truncation_side
        prompts = [prompt.truncated(limit, side, f"Prompt {i}") for i, prompt in enumerate(prompts)]
    prompts = [prompt.expanded() for prompt in prompts]
    columns = {"input_ids": [prompt.ids for prompt in prompts]}
    if settings.get("return_attention_mask") is not False:
        columns["attention_mask"] = [np.ones_like(prompt.ids) for prompt in prompts]
    if settings.get("return_offsets_mapping"):
        if not tokenizer.is_fast:
            raise ValueError("This tokenizer does not tell which characters its tokens stand for.")
        columns["offset_mapping"] = [prompt.offsets for prompt in prompts]
    if mask:
        columns["assistant_masks"] = [prompt.said.astype(np.int64) for prompt in prompts]
    padding, limit = PaddingStrategy(_PADDING.get(settings.get("padding"), settings.get("padding"))), None
    if padding == PaddingStrategy.MAX_LENGTH:
        limit = settings.get("max_length") or tokenizer.model_max_length
    if padding != PaddingStrategy.DO_NOT_PAD and (limit or 0) < _NO_LIMIT:
        if tokenizer.pad_token_id is None:
            raise ValueError("The tokenizer has no padding token: set `tokenizer.pad_token`, or pass padding=False.")
        side = settings.get("padding_side") or tokenizer.padding_side
        for name, rows in columns.items():
            value = tokenizer.pad_token_id if name == "input_ids" else 0
            columns[name] = pad(rows, value, limit, settings.get("pad_to_multiple_of"), side)
    if settings.get("return_tensors") is None:
        columns = {name: [row.tolist() for row in rows] for name, rows in columns.items()}
    if settings.get("return_text_replacement_offsets"):
        columns["text_replacement_offsets"] = [[] for _ in prompts]  # offsets are those of the text as it was given
    return columns


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
