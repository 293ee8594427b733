"""Keeps typed text as text: users cannot write control tokens, whatever a template does with their text.

A chat template puts control tokens and placeholders around users' text. First, each character of that text that can be part
of a control token (`<`, `|`) is replaced by a stand-in, a rare letter. Then the template writes the chat. A control token
without a stand-in is the template's own. One with a stand-in was typed: it is read as text, with its original characters.

Marks around typed text are not enough: templates cut texts, escape them (JSON, Python), and change their letters.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment
from transformers import PreTrainedTokenizerBase

from ..utils.upstream import encode_chat_piece


# Ids `(tokens,)` int64, and the characters of each `(tokens, 2)` int64.
Encoded = tuple[np.ndarray, np.ndarray]
# Roles that templates write without naming them.
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
# Rare letters, printable and without capitals: templates do not change them. Letters in the chat are not used.
_FIRST_STAND_IN, _LAST_STAND_IN = 0x20000, 0x2A6DF
# JSON escapes these; templates strip blanks.
_NEVER = re.compile(r"[\s\"\\\x00-\x1f]")


class StandIns(NamedTuple):
    """The stand-ins of one chat: the character after `first` for the first of `signs`, and so on."""

    first: int
    signs: str

    def unescaped(self, text: str) -> str:
        """A template's text with stand-ins that JSON in ASCII escaped restored."""
        for place in range(len(self.signs) if "\\ud8" in text else 0):
            text = text.replace(_escaped(self.first + place), chr(self.first + place))
        return text

    def put_back(self, text: str) -> str:
        """The text as it was typed, of the same length."""
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).copy()
        standing = (codes >= self.first) & (codes < self.first + len(self.signs))
        codes[standing] = np.array([ord(sign) for sign in self.signs], np.uint32)[codes[standing] - self.first]
        return codes.tobytes().decode("utf-32-le", "surrogatepass")


class TypedText:
    """Separates typed text from the template's, and reads it as text.

    Args:
        tokenizer: its special tokens, with placeholders, are the control tokens.
        extra: other signs that must not be typed.

    Attributes:
        line_end: ids of a line end. After it, a tokenizer does not add the space that it adds before a text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, extra: str = ""):
        self.tokenizer = tokenizer
        special = {key: one.content for key, one in tokenizer.added_tokens_decoder.items() if one.special}
        self.tokens = tokens = [*special.values()]
        # An unknown word may come from anybody.
        ids = sorted(special.keys() - {tokenizer.unk_token_id})
        self._is_control = np.zeros(
            ids[-1] + 2 if ids else 1, dtype=bool
        )  # by id; the last entry is for all larger ids
        self._is_control[ids] = True
        normalizer = tokenizer.backend_tokenizer.normalizer if tokenizer.is_fast else None
        self.normalize = None if normalizer is None else normalizer.normalize_str
        one = "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)"
        self.control_tokens = re.compile(one)
        self._signs = {*extra}.union(*map(_signs, tokens))
        self._all, self._longest = "\0".join(tokens).lower(), max(map(len, tokens), default=0)
        self._known: dict[str, bool] = {}

    def replace(self, given: tuple[Any, ...], template: str) -> tuple[tuple[Any, ...], StandIns | None]:
        """Messages, tools, documents and variables of a template with stand-ins, if any are needed.

        Raises:
            ValueError: the chat leaves no free character for a stand-in.
        """
        own, asked = _own_words(template)
        texts = _texts(given, own)
        pieces = {text for text in texts if self._is_piece(text)}
        whole = "\0".join(texts)
        plain = {sign for sign in self._found_signs(whole) if not _NEVER.match(sign)}
        signs = "".join(sorted(plain.union(*pieces)))
        if not signs:
            return given, None
        standing = StandIns(_free_place("".join([whole, template, *self.tokens]), len(signs)), signs)
        letters = {ord(sign): standing.first + i for i, sign in enumerate(signs) if not _NEVER.match(sign)}
        # Strings that the template searches for in a text stay; they cannot form a control token.
        kept = [words for words in asked if not plain.isdisjoint(words)]
        kept = [re.escape(words) for words in kept if not any(_overlap(words, one) for one in self.tokens)]
        found = re.compile("|".join([*kept, f"[{re.escape(''.join(plain))}]"]) if plain else "(?!)")

        def replaced(text: str) -> str:
            if text in pieces:
                return text.translate(letters)
            return found.sub(lambda match: match[0].translate(letters) if len(match[0]) == 1 else match[0], text)

        *messages, variables = given
        named = own.union(self.tokens)  # the caller may name a control token for the template to write
        changed = [_each(one, replaced, own, False) for one in messages]
        return (*changed, _each(variables, replaced, named, True)), standing

    def _found_signs(self, text: str) -> set[str]:
        """Characters of a text that can form control tokens, or that the tokenizer reads as such (wide letters)."""
        found = {sign for sign in self._signs if sign in text}
        if self.normalize is None or text.isascii():
            return found
        letters = {letter for letter in {*text} if not letter.isascii()}
        for letter in letters - self._known.keys():
            self._known[letter] = not self._signs.isdisjoint(self.normalize(letter))
        return found.union(letter for letter in letters if self._known[letter])

    def _is_piece(self, text: str) -> bool:
        """Whether it could be the middle of a control token, without a sign: a name between `<|` and `|>`."""
        return len(text) < self._longest + 8 and (inner := text.strip().lower()) != "" and inner in self._all

    def typed(self, text: str, shown: str, also: re.Pattern | None = None) -> Iterator[tuple[int, int]]:
        """Spans of typed control tokens, or of matches of `also`, in a text: first character, and the one after the last.
        The tokenizer must not read across an empty span.

        Args:
            shown: the text with stand-ins.
        """
        pattern = also or self.control_tokens
        place = 0
        for start, end in [*(match.span() for match in pattern.finditer(shown)), (len(text), len(text))]:
            while match := pattern.search(text, place, start):
                yield match.span()
                place = match.end()
            across = pattern.search(text, place)
            if across is not None and across.span() != (start, end):
                yield start, start
                yield end, end
            place = end

    # --- from text to ids ----------------------------------------------------------------------------------------

    @cached_property
    def line_end(self) -> list[int]:
        return self._read("\n")

    def is_more_than_written(self, ids: np.ndarray, text: str) -> bool:
        """Whether the tokenizer read control tokens that the text does not have: wide letters look the same to it."""
        found = int(self._controls(ids).sum())
        return found > 0 and found > len(self.control_tokens.findall(text))

    def apart(self, text: str) -> Encoded:
        """Tokenises written control tokens, and the rest as text."""
        parts, start = [], 0
        for match in self.control_tokens.finditer(text):
            ids = self._read(match.group())
            parts += [self.as_text(text[start : match.start()], start), arrays(ids, match.span() * len(ids))]
            start = match.end()
        return joined(*parts, self.as_text(text[start:], start))

    def as_text(self, text: str, start: int = 0) -> Encoded:
        """Tokenises as text: anything that the tokenizer reads as a control token is cut until it does not."""
        read = encode_chat_piece(self.tokenizer, text, True, self.line_end) if text else []
        ids, places = arrays(read, (start, start + len(text)) * len(read))
        if not self._controls(ids).any():
            return ids, places
        if len(text) > 1:
            half = len(text) // 2
            return joined(self.as_text(text[:half], start), self.as_text(text[half:], start + half))
        if self.tokenizer.unk_token_id is None:
            raise ValueError(f"{text!r} was typed, but the tokenizer cannot write it as plain text: leave it out.")
        return arrays([self.tokenizer.unk_token_id], (start, start + 1))

    def _controls(self, ids: np.ndarray) -> np.ndarray:
        """Whether each id `(tokens,)` is that of a control token: `(tokens,)` bool."""
        return np.take(self._is_control, ids, mode="clip")

    def _read(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)


def arrays(ids: Iterable[int], places: Iterable[int]) -> Encoded:
    return np.fromiter(ids, dtype=np.int64), np.fromiter(places, dtype=np.int64).reshape(-1, 2)


def joined(*parts: Encoded) -> Encoded:
    if len(parts) == 1:
        return parts[0]
    ids, places = (np.concatenate(column) for column in zip(*parts, strict=True))
    return ids, places


def _signs(token: str) -> set[str]:
    """The characters of a token that are rare in words; all of them if it is a word."""
    signs = {sign for sign in token if not (sign.isalnum() or sign == "_" or _NEVER.match(sign))}
    return signs or {sign for sign in token if not _NEVER.match(sign)}


def _steers(value: str, name: Any, own: frozenset[str]) -> bool:
    """Whether a template branches on this entry of a dict, and does not just write it."""
    return name in ("type", "role") and (value in own or name == "role" and value in _ROLES)


def _texts(given: Any, own: frozenset[str]) -> set[str]:
    """All texts that may be written, including keys."""
    found = set()

    def collect(value: Any, name: Any) -> None:
        if isinstance(value, str):
            if not _steers(value, name, own):
                found.add(value)
        elif isinstance(value, (list, tuple)):
            for entry in value:
                collect(entry, name)
        elif isinstance(value, (dict, Mapping)):  # isinstance is slow for abstract classes
            for key, entry in value.items():
                if key not in own and isinstance(key, str):
                    found.add(key)
                collect(entry, key)

    collect(given, None)
    return found


def _each(value: Any, change: Callable[[str], str], own: frozenset[str], options: bool, name: Any = None) -> Any:
    """A copy with the texts of `_texts` changed; without words that are values of `options` for the template."""
    if isinstance(value, str):
        return value if _steers(value, name, own) or (options and value in own) else change(value)
    if isinstance(value, Mapping):
        keys = (change(key) if isinstance(key, str) and key not in own else key for key in value)
        return {
            key: _each(entry, change, own, options, n) for key, (n, entry) in zip(keys, value.items(), strict=True)
        }
    return [_each(one, change, own, options, name) for one in value] if isinstance(value, (list, tuple)) else value


def _free_place(text: str, count: int) -> int:
    """The first of `count` consecutive characters that are not in a text, also not escaped."""
    used = {*map(ord, {*text})}
    for first in range(_FIRST_STAND_IN, _LAST_STAND_IN - count, count):
        row = range(first, first + count)
        if used.isdisjoint(row) and not ("\\ud8" in text and any(_escaped(code) in text for code in row)):
            return first
    raise ValueError("The chat has too many different characters: shorten it.")


def _escaped(code: int) -> str:
    return json.dumps(chr(code))[1:-1]


def _overlap(words: str, token: str) -> bool:
    """Whether a token could hold a piece of these words."""
    reach = range(1, min(len(words), len(token)) + 1)
    meet = any(words[-n:] == token[:n] or token[-n:] == words[:n] for n in reach)
    return meet or words in token or token in words


@lru_cache
def _own_words(template: str) -> tuple[frozenset[str], list[str]]:
    """Names of roles, types and keys that the template reads, and strings that it may search for, the longest first."""
    words = []
    for _, kind, text in Environment().lex(template):
        if kind == "string":
            text = text[1:-1].encode("ascii", "backslashreplace").decode("unicode-escape")
        if kind in ("name", "string"):
            words.append(text)
    own = frozenset({"role", "content", *(word for word in words if word.isidentifier())})
    return own, sorted({word for word in words if len(word) > 1} - own, key=len, reverse=True)
