"""From text to token ids, and from placeholders to the tokens of their media: the one way for calls, chats and training.

Text holds one placeholder token per medium. It is tokenised so, and only then is each placeholder's id repeated for
the tokens that the medium needs: media never lengthen what the tokenizer sees, and their spans are known exactly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..utils.upstream import encode_chat_piece, mark_pattern
from .prompt import Prompt, Span, Text, count_error


# Written by templates between pieces of text that are tokenised by themselves; no tokenizer ever sees it.
PIECE_END = "\ufdd2"
# How a stretch of text is read: as it is, as what stands behind other text, or as plain text.
_FIRST, _INNER, _TYPED = range(3)
_Encoded = tuple[np.ndarray, np.ndarray | None]


class _Stretch(NamedTuple):
    """What is tokenised by itself, from `start` to `end` of a text."""

    text: str
    start: int
    end: int
    kind: int


class PromptTokenizer:
    """Tokenises text that holds placeholders.

    Args:
        tokenizer: the language model's.
        tokens: modality -> its placeholder token.
        piecewise: text is split at special tokens and at `PIECE_END`, and each piece is tokenised by itself, behind one
            begin token.

    Attributes:
        placeholders: modality -> the id of its placeholder token.

    Raises:
        ValueError: a placeholder is not in the tokenizer's vocabulary.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tokens: Mapping[str, str], piecewise: bool = False):
        self.tokenizer, self.tokens, self.piecewise = tokenizer, dict(tokens), piecewise
        self.placeholders = {name: self._token_id(name, token) for name, token in tokens.items()}
        self._typed: dict[str, np.ndarray] = {}

    def _token_id(self, modality: str, token: str) -> int:
        token_id: Any = self.tokenizer.convert_tokens_to_ids(token)  # of one token, one id
        if token_id is None or (token_id == self.tokenizer.unk_token_id and token != self.tokenizer.unk_token):
            raise ValueError(f"The placeholder {token!r} of {modality!r} is not in the tokenizer's vocabulary.")
        return token_id

    def encode(self, texts: Sequence[Text], add_special_tokens: bool = True) -> list[Prompt]:
        """
        Args:
            add_special_tokens: whether the tokenizer adds its first and last tokens to texts that are not complete.

        Raises:
            ValueError: a control token that was typed cannot be written as plain text.
        """
        stretches = [[*self._stretches(text)] for text in texts]
        encoded = iter(self._encode([*chain.from_iterable(stretches)]))
        prompts = []
        for text, own in zip(texts, stretches, strict=True):
            parts = [next(encoded) for _ in own]
            if add_special_tokens and not text.complete and not (self.piecewise and self.begins(text.text)):
                parts = [self._added[0], *parts, self._added[1]]
            ids = np.concatenate([ids for ids, _ in parts] or [np.zeros(0, dtype=np.int64)])
            places = np.concatenate([places for _, places in parts] or [np.zeros((0, 2), dtype=np.int64)])
            is_medium = np.isin(ids, list(self.placeholders.values()))
            prompts.append(Prompt(ids, is_medium, np.ones_like(ids), places, _overlap(places, text.said)))
        return prompts

    def check_count(self, prompts: Sequence[Prompt], modality: str, given: int, where: str | None = None) -> None:
        """Raises ValueError if prompts (`where`: their name) have more or fewer placeholders than media are given."""
        places = sum(prompt.count(self.placeholders[modality]) for prompt in prompts)
        if places != given:
            where = where or ("the prompt" if len(prompts) == 1 else f"the batch of {len(prompts)} prompts")
            raise ValueError(f"{where} {count_error(modality, self.tokens[modality], places, given)}")

    def place_media(self, prompts: Sequence[Prompt], token_counts: Mapping[str, Sequence[int]]) -> None:
        """Tells prompts how many tokens their media have.

        Args:
            token_counts: modality -> tokens of each of its media over all prompts, in the order of placeholders.

        Raises:
            ValueError: more or fewer media than placeholders.
        """
        for name, token_id in self.placeholders.items():
            counts, start = np.asarray(token_counts.get(name, ()), dtype=np.int64), 0
            self.check_count(prompts, name, len(counts))
            for prompt in prompts:
                places = np.flatnonzero(prompt.ids == token_id)
                prompt.repeats[places] = counts[start : start + len(places)]
                start += len(places)

    # --- control tokens ------------------------------------------------------------------------------------------

    @cached_property
    def control_tokens(self) -> re.Pattern:
        """Finds special tokens, placeholders among them."""
        special = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        return re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")

    def types_control_tokens(self, given: Any) -> bool:
        """Whether a text in messages, tools or documents holds a special token."""
        if isinstance(given, str):
            return self.control_tokens.search(given) is not None
        values = given.values() if isinstance(given, Mapping) else given
        return isinstance(given, (Mapping, list, tuple)) and any(map(self.types_control_tokens, values))

    def begins(self, text: str) -> bool:
        """Whether a text brings its begin token itself."""
        bos = self.tokenizer.bos_token
        return bos is not None and text.startswith(bos)

    @cached_property
    def _added(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """What the tokenizer puts in front of and behind every text; in front of pieces always stands its begin token."""
        if self.piecewise:
            bos = self.tokenizer.bos_token_id
            added = [[] if bos is None else [bos], []]
        else:
            ids, plain = self.tokenizer("a")["input_ids"], self.tokenizer("a", add_special_tokens=False)["input_ids"]
            places = range(len(ids) - len(plain) + 1)
            start = next((i for i in places if ids[i : i + len(plain)] == plain), 0)
            added = [ids[:start], ids[start + len(plain) :]]
        return [(np.array(ids, dtype=np.int64), np.zeros((len(ids), 2), dtype=np.int64)) for ids in added]

    # --- stretches -----------------------------------------------------------------------------------------------

    def _stretches(self, whole: Text) -> Iterator[_Stretch]:
        """A text, split at typed control tokens, at the ends of pieces, and, where the tokenizer does not tell which
        characters its tokens stand for, at the ends of what was said."""
        text, start = whole.text, 0
        edges = [] if self.tokenizer.is_fast else sorted(chain.from_iterable(whole.said))
        for match in [*(mark_pattern(self.tokenizer).finditer(text) if whole.marked else ()), None]:
            end = len(text) if match is None else match.start()
            for a, b in pairwise([start, *(edge for edge in edges if start < edge < end), end]):
                for span in self._pieces(text, a, b):
                    kind = _FIRST if self.piecewise or span[0] == 0 else _INNER
                    yield _Stretch(text[slice(*span)], *span, kind)
            if match is not None:
                start = match.end()
                if match.group(1) is not None:
                    yield _Stretch(match.group(1), *match.span(1), _TYPED)

    def _pieces(self, text: str, start: int, end: int) -> Iterator[Span]:
        """Special tokens and what is between them, if text is tokenised piecewise; else the whole."""
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
        return re.compile(f"{PIECE_END}|{self.control_tokens.pattern}")

    def _encode(self, stretches: list[_Stretch]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Ids `(tokens,)` of each, and the characters of these in their text `(tokens, 2)`."""
        encoded: list[Any] = [None] * len(stretches)
        for kind, read in enumerate((self._read, self._read_inner, self._read_typed)):
            which = [i for i, stretch in enumerate(stretches) if stretch.kind == kind]
            found = read([stretches[i].text for i in which]) if which else []
            for i, (ids, places) in zip(which, found, strict=True):
                _, start, end, _ = stretches[i]
                encoded[i] = ids, np.tile((start, end), (len(ids), 1)) if places is None else places + start
        return encoded

    def _read(self, texts: list[str]) -> list[_Encoded]:
        """Ids of texts, all in one call, and the characters of each if the tokenizer tells."""
        silent = dict.fromkeys(("add_special_tokens", "padding", "truncation", "return_attention_mask"), False)
        located = self.tokenizer.is_fast
        encoding = self.tokenizer(texts, **silent, return_token_type_ids=False, return_offsets_mapping=located)
        ids = [np.array(row, dtype=np.int64) for row in encoding["input_ids"]]
        if not located:
            return [(row, None) for row in ids]
        flat = (np.fromiter(chain.from_iterable(row), dtype=np.int64) for row in encoding["offset_mapping"])
        return [(row, places.reshape(-1, 2)) for row, places in zip(ids, flat, strict=True)]

    def _read_inner(self, texts: list[str]) -> list[_Encoded]:
        """Behind a line end, a tokenizer does not put the space that it puts in front of a text."""
        ((line_end, _),) = self._read(["\n"])
        skip, found = len(line_end), self._read([f"\n{text}" for text in texts])
        joined = [i for i, (ids, _) in enumerate(found) if not np.array_equal(ids[:skip], line_end)]
        found = [(ids[skip:], places if places is None else places[skip:] - 1) for ids, places in found]
        for i, alone in zip(joined, self._read([texts[i] for i in joined]) if joined else [], strict=True):
            found[i] = alone
        return found

    def _read_typed(self, texts: list[str]) -> list[_Encoded]:
        for text in set(texts) - self._typed.keys():
            line_end = self.tokenizer.encode("\n", add_special_tokens=False)
            ids = encode_chat_piece(self.tokenizer, text, True, line_end)
            if self.tokenizer.convert_tokens_to_ids(text) in ids:
                raise ValueError(f"{text!r} was typed, but the tokenizer cannot write it as plain text.")
            self._typed[text] = np.array(ids, dtype=np.int64)
        return [(self._typed[text], None) for text in texts]


def _overlap(places: np.ndarray, spans: Sequence[Span]) -> np.ndarray:
    """Which tokens, by their characters `(tokens, 2)`, are in one of the spans: `(tokens,)` bool."""
    starts, ends = np.array([(-1, -1), *sorted(spans)]).T
    last = np.searchsorted(starts, places[:, 1]) - 1  # of the spans that begin in front of the token's end
    return np.maximum.accumulate(ends)[last] > places[:, 0]
