"""Turns text into token ids, and placeholders into the tokens of their media, for calls, chats and training alike.

Text holds one placeholder token per medium. It is tokenised in this form. Then each placeholder's id is repeated for the
tokens that the medium needs. So media never lengthen the tokenizer's input, and their spans are known exactly.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..utils.checked import ConfigError
from .typed import Encoded, TypedText, arrays, joined


# Templates write it between pieces of text that are tokenised separately; tokenizers never see it.
PIECE_END = "\ufdd2"
# First character, and the one after the last.
Span = tuple[int, int]


class Text(NamedTuple):
    """A text to tokenise.

    Attributes:
        text: the text, with one placeholder token for each medium.
        said: spans of the assistant's text.
        shown: the text with stand-ins for signs that people typed, as `TypedText` writes it: these never form control
            tokens. None: the text may hold control tokens.
        complete: whether it already has the tokens that a tokenizer adds before and after a text.
    """

    text: str
    said: Sequence[Span] = ()
    shown: str | None = None
    complete: bool = False


@dataclass
class Prompt:
    """The tokens of one text, with one for each placeholder.

    Attributes:
        ids: `(tokens,)` int64.
        is_medium: `(tokens,)` bool, whether it is a placeholder.
        repeats: `(tokens,)` int64, how often the model's input has it: 1, or the number of tokens of a medium, after
            `PromptTokenizer.place_media`.
        offsets: `(tokens, 2)` int64, the characters of each token; 0 and 0 for tokens that the tokenizer adds. If the
            tokenizer gives no offsets, they are those of a longer stretch.
        said: `(tokens,)` bool, whether it is the assistant's.
        spelled: `(tokens,)` objects: for a medium with text between its frames, the ids of its placeholder; else None.
    """

    ids: np.ndarray
    is_medium: np.ndarray
    repeats: np.ndarray
    offsets: np.ndarray
    said: np.ndarray
    spelled: np.ndarray

    def __len__(self) -> int:
        """Tokens of the model's input."""
        return int(self.repeats.sum())

    def count(self, token_id: int) -> int:
        """Number of its tokens with this id."""
        return int((self.ids == token_id).sum())

    @property
    def labels(self) -> np.ndarray:
        """`(tokens,)` int64: the ids of the assistant's words, elsewhere -100."""
        return np.where(self.said & ~self.is_medium, self.ids, -100)

    def expanded(self) -> "Prompt":
        """The prompt with each placeholder repeated for the medium's tokens."""
        prompt = self._each(lambda values: np.repeat(values, self.repeats, axis=0))
        for place in (place for place in np.flatnonzero(self.is_medium) if self.spelled[place] is not None):
            start = self.repeats[:place].sum()
            prompt.ids[start : start + self.repeats[place]] = self.spelled[place]
        prompt.repeats = np.ones_like(prompt.ids)
        return prompt

    def _each(self, function: Callable[[np.ndarray], np.ndarray]) -> "Prompt":
        return Prompt(*(function(getattr(self, field.name)) for field in fields(self)))

    def truncated(self, limit: int, side: str, where: str) -> "Prompt":
        """Cut on one side to `limit` tokens. Raises ValueError, which begins with `where`, if that would cut a medium."""
        order = slice(None, None, -1 if side == "left" else 1)
        kept = np.cumsum(self.repeats[order])[order] <= limit
        if self.is_medium[~kept].any():
            raise ValueError(
                f"{where} has {len(self)} tokens; truncation to max_length={limit} would cut a medium of "
                f"{self.repeats[~kept].max()} tokens. Raise max_length, shorten the text, or give fewer media."
            )
        return self._each(lambda values: values[kept])

    def without_last_words(self, count: int) -> "Prompt | None":
        """Without its last `count` tokens of text; None if there are fewer, or if no labels would be left."""
        words = np.flatnonzero(~self.is_medium)
        if count > len(words):
            return None
        kept = np.ones(len(self.ids), dtype=bool)
        kept[words[len(words) - count :]] = False
        prompt = self._each(lambda values: values[kept])
        return prompt if (prompt.labels >= 0).any() else None


class Spelled(int):
    """The number of tokens of a medium in the text, and its ids: `placeholders`, and text between them."""

    ids: np.ndarray
    placeholders: int


class _Stretch(NamedTuple):
    """A stretch that is tokenised alone. `lead` is put before it, and its tokens are removed again; None for a typed
    control token, which is read as plain text. If `guarded`, only control tokens that are written in it count."""

    text: str
    start: int
    lead: str | None
    guarded: bool


class PromptTokenizer:
    """Tokenises text that holds placeholders.

    Args:
        tokenizer: the language model's.
        tokens: modality -> its placeholder token.
        piecewise: text is split at special tokens and at `PIECE_END`, and each piece is tokenised alone, after one begin
            token.

    Attributes:
        placeholders: modality -> the id of its placeholder token.

    Raises:
        ConfigError: a placeholder is not a token that was added for it alone.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tokens: Mapping[str, str], piecewise: bool = False):
        self.tokenizer, self.tokens, self.piecewise = tokenizer, dict(tokens), piecewise
        self.placeholders = {name: self._token_id(name, token) for name, token in tokens.items()}
        for name, token_id in self.placeholders.items():
            if others := [
                other for other in self.placeholders if other != name and self.placeholders[other] == token_id
            ]:
                raise ConfigError(
                    f"The placeholder {tokens[name]!r} of {name!r} is also that of {', '.join(map(repr, others))}."
                )

    def _token_id(self, modality: str, token: str) -> int:
        token_id: Any = self.tokenizer.convert_tokens_to_ids(token)  # one id for one token
        if token_id is None or (token_id == self.tokenizer.unk_token_id and token != self.tokenizer.unk_token):
            raise ConfigError(f"The placeholder {token!r} of {modality!r} is not in the tokenizer's vocabulary.")
        if token_id not in self.tokenizer.added_tokens_decoder:
            raise ConfigError(
                f"The placeholder {token!r} of {modality!r} is an ordinary word of the tokenizer, which users may type. It "
                "must be an added token."
            )
        own = (self.tokenizer.pad_token, self.tokenizer.bos_token, self.tokenizer.eos_token, self.tokenizer.unk_token)
        if token in own:
            raise ConfigError(f"The placeholder {token!r} of {modality!r} has another meaning in this tokenizer.")
        return token_id

    def encode(self, texts: Sequence[Text], add_special_tokens: bool = True) -> list[Prompt]:
        """
        Args:
            add_special_tokens: whether the tokenizer adds its first and last tokens to texts that are not complete.

        Raises:
            ValueError: a typed control token cannot be written as plain text.
        """
        stretches = [[*self._stretches(text)] for text in texts]
        encoded = iter(self._encode([*chain.from_iterable(stretches)]))
        prompts = []
        for text, own in zip(texts, stretches, strict=True):
            parts = [next(encoded) for _ in own] or [arrays((), ())]
            if (
                add_special_tokens
                and not text.complete
                and not (self.piecewise and self.begins(text.shown or text.text))
            ):
                parts = [self._added[0], *parts, self._added[1]]
            ids, places = joined(*parts)
            is_medium = (ids[:, None] == [*self.placeholders.values()]).any(1)
            nothing = np.full(len(ids), None)
            prompts.append(Prompt(ids, is_medium, np.ones_like(ids), places, _overlap(places, text.said), nothing))
        return prompts

    def check_count(self, prompts: Sequence[Prompt], modality: str, given: int, where: str | None = None) -> None:
        """Raises ValueError if prompts (`where`: their name) have more or fewer placeholders than there are media."""
        places = sum(prompt.count(self.placeholders[modality]) for prompt in prompts)
        if places != given:
            where = where or ("the prompt" if len(prompts) == 1 else f"the batch of {len(prompts)} prompts")
            raise ValueError(f"{where} {count_error(modality, self.tokens[modality], places, given)}")

    def place_media(self, prompts: Sequence[Prompt], token_counts: Mapping[str, Sequence[int]]) -> None:
        """Sets the number of tokens of each medium in prompts.

        Args:
            token_counts: modality -> tokens of each of its media over all prompts, in the order of placeholders.

        Raises:
            ValueError: more or fewer media than placeholders.
        """
        for name, token_id in self.placeholders.items():
            given, start = token_counts.get(name, ()), 0
            counts = np.asarray(given, dtype=np.int64)
            self.check_count(prompts, name, len(counts))
            for prompt in prompts:
                places = np.flatnonzero(prompt.ids == token_id)
                prompt.repeats[places] = counts[start : start + len(places)]
                for place in places:
                    prompt.spelled[place] = getattr(given[start], "ids", None)
                    start += 1

    def spell(self, modality: str, texts: Sequence[str], counts: Sequence[int]) -> "Spelled":
        """The tokens of a medium with a text before each frame; `counts`: tokens of each frame."""
        runs = zip((ids for ids, _ in self._read(list(texts))), counts, strict=True)
        ids = np.concatenate([part for text, n in runs for part in (text, [self.placeholders[modality]] * n)])
        spelled = Spelled(len(ids))
        spelled.ids, spelled.placeholders = ids, sum(counts)
        return spelled

    # --- control tokens ------------------------------------------------------------------------------------------

    @cached_property
    def typed(self) -> TypedText:
        """Finds special tokens and placeholders that were typed."""
        return TypedText(self.tokenizer, PIECE_END if self.piecewise else "")

    def begins(self, text: str) -> bool:
        """Whether a text has its begin token already."""
        bos = self.tokenizer.bos_token
        return bos is not None and text.startswith(bos)

    @cached_property
    def _added(self) -> list[Encoded]:
        """The tokens that the tokenizer adds before and after every text; before pieces it is always the begin token."""
        if self.piecewise:
            first, last = [token for token in [self.tokenizer.bos_token_id] if token is not None], []
        else:
            ids, plain = self.tokenizer("a")["input_ids"], self.tokenizer("a", add_special_tokens=False)["input_ids"]
            places = range(len(ids) - len(plain) + 1)
            start = next((i for i in places if ids[i : i + len(plain)] == plain), 0)
            first, last = ids[:start], ids[start + len(plain) :]
        return [arrays(ids, (0, 0) * len(ids)) for ids in (first, last)]

    # --- stretches -----------------------------------------------------------------------------------------------

    def _stretches(self, whole: Text) -> Iterator[_Stretch]:
        """A text, split at typed control tokens, at the ends of pieces, and, if the tokenizer gives no offsets, at the
        ends of the assistant's text."""
        text, start, guarded = whole.text, 0, whole.shown is not None
        edges = [] if self.tokenizer.is_fast else sorted(chain.from_iterable(whole.said))
        typed: Iterator[Span] = iter(())
        if whole.shown is not None and whole.shown != text:
            typed = self.typed.typed(text, whole.shown, self._piece_ends if self.piecewise else None)
        for end, behind in [*typed, (len(text), len(text))]:
            for a, b in pairwise([start, *(edge for edge in edges if start < edge < end), end]):
                for first, last in self._pieces(text, a, b):
                    # After a line end, a tokenizer does not add the space that it adds before a text.
                    yield _Stretch(text[first:last], first, "" if self.piecewise or first == 0 else "\n", guarded)
            if end < behind:
                yield _Stretch(text[end:behind], end, None, True)
            start = behind

    def _pieces(self, text: str, start: int, end: int) -> Iterator[Span]:
        """Special tokens and the text between them, if text is tokenised piecewise; else the full text."""
        for match in self._piece_ends.finditer(text, start, end) if self.piecewise else ():
            if start < match.start():
                yield start, match.start()
            if match.group() != PIECE_END:
                yield match.span()
            start = match.end()
        if start < end:
            yield start, end

    @cached_property
    def _piece_ends(self) -> re.Pattern:
        return re.compile(f"{PIECE_END}|{self.typed.control_tokens.pattern}")

    def _encode(self, stretches: list[_Stretch]) -> list[Encoded]:
        """Ids `(tokens,)` of each, and their characters in the full text `(tokens, 2)`."""
        plain = iter(self._read([one.lead + one.text for one in stretches if one.lead is not None]))
        encoded = []
        for text, start, lead, guarded in stretches:
            ids, places = self.typed.as_text(text) if lead is None else next(plain)
            if lead:
                skip = len(self.typed.line_end)
                if ids[:skip].tolist() == self.typed.line_end:
                    ids, places = ids[skip:], np.maximum(places[skip:] - len(lead), 0)
                else:
                    ((ids, places),) = self._read([text])
            if guarded and lead is not None and self.typed.is_more_than_written(ids, text):
                ids, places = self.typed.apart(text)
            encoded.append((ids, places + start))
        return encoded

    def _read(self, texts: list[str]) -> list[Encoded]:
        """Tokenises texts unchanged, in one call. Without offsets, each token gets the characters of its full text."""
        if not texts:
            return []
        silent = dict.fromkeys(("add_special_tokens", "padding", "truncation", "return_attention_mask"), False)
        told = self.tokenizer.is_fast
        encoding = self.tokenizer(texts, **silent, return_token_type_ids=False, return_offsets_mapping=told)
        rows, whole = encoding["input_ids"], [[(0, len(text))] for text in texts]
        places = encoding["offset_mapping"] if told else [w * len(row) for w, row in zip(whole, rows, strict=True)]
        return [arrays(row, chain.from_iterable(own)) for row, own in zip(rows, places, strict=True)]


def _overlap(places: np.ndarray, spans: Sequence[Span]) -> np.ndarray:
    """Whether each token, with characters `(tokens, 2)`, is in one of the spans: `(tokens,)` bool."""
    starts, ends = np.array([(-1, -1), *sorted(spans)]).T
    last = np.searchsorted(starts, places[:, 1]) - 1  # the last span that begins before the token's end
    return np.maximum.accumulate(ends)[last] > places[:, 0]


def pad(
    rows: Sequence[np.ndarray], value: int, length: int | None = None, multiple: int | None = None, side: str = "right"
) -> list[np.ndarray]:
    """Rows `(tokens, ...)`, filled with `value` on one side up to `length` (the longest row's if left out), or the next
    multiple of `multiple`. Longer rows stay unchanged."""
    length = max(map(len, rows), default=0) if length is None else length
    length = -(-length // (multiple or 1)) * (multiple or 1)
    filled = []
    for row in rows:
        padding = np.full((max(length - len(row), 0), *row.shape[1:]), value, dtype=row.dtype)
        filled.append(np.concatenate([padding, row] if side == "left" else [row, padding]))
    return filled


def count_error(modality: str, token: str, places: int, given: int) -> str:
    """The error for a text with more or fewer placeholders than media; it continues the text's name."""
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
