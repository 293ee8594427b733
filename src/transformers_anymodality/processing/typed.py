"""Who may say what: what people typed stays text, wherever it was typed and however it is cut.

A chat template puts control tokens and placeholders around text of anybody. A control token that stands in one string is
marked there. Others come about only where the template joins strings ("<|im_" and "end|>" in two parts, a role between
"<|" and "|>"): strings that could be a piece of a control token are marked at their ends, and the chat is written again. If
fewer control tokens are written then, the others were nobody's to write, and the marks stay.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from jinja2 import Environment
from transformers import PreTrainedTokenizerBase

from ..utils.upstream import encode_chat_piece


# Ids `(tokens,)` int64, and the characters that each stands for `(tokens, 2)` int64.
Encoded = tuple[np.ndarray, np.ndarray]
# Noncharacters, of which texts are rid before they are marked: nobody can forge a mark, these or others of this package.
_START, _END, _EDGE = "\ufdd3", "\ufdd4", "\ufdd5"
_MARKS = re.compile("[\ufdd0-\ufdd5]")
# Roles that templates write without naming them.
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


class TypedText:
    """Marks what was typed, so that it can be told from what a template writes, and reads it as text.

    Args:
        tokenizer: its special tokens are the control tokens, placeholders among them.

    Attributes:
        line_end: ids of a line's end. Behind it, a tokenizer does not put the space that it puts in front of a text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        special = {key: one.content for key, one in tokenizer.added_tokens_decoder.items() if one.special}
        self.tokens = [*special.values()]
        # A word that the tokenizer does not know may be anybody's.
        self._ids = np.array(sorted(special.keys() - {tokenizer.unk_token_id}), dtype=np.int64)
        one = "|".join(map(re.escape, sorted(self.tokens, key=len, reverse=True))) or "(?!)"
        self.control_tokens = re.compile(one)
        # A control token that was typed is group 1. The template may have cut off the mark behind it.
        self.marked = re.compile(f"{_START}({one}){_END}?|[{_START}{_END}{_EDGE}]")

    def mark(self, given: tuple[Any, ...], template: str, write: Callable[[tuple[Any, ...]], str]) -> tuple[Any, ...]:
        """What a template is given (messages, tools, ...), with marks.

        Args:
            write: writes the chat out of what the template is given.
        """
        own = _own_words(template)
        plain, careful = (tuple(self._marked(one, own, ends) for one in given) for ends in (False, True))
        if careful == plain or self._written(write(plain)) == self._written(write(careful)):
            return plain
        return careful

    def _written(self, text: str) -> list[str]:
        """The control tokens that nobody typed."""
        return self.control_tokens.findall(self.marked.sub(_EDGE, text))

    def _marked(self, given: Any, own: frozenset[str], ends: bool) -> Any:
        if isinstance(given, str):
            text = self.control_tokens.sub(rf"{_START}\g<0>{_END}", _MARKS.sub("", given))
            return self._with_edges(text) if ends and text not in own else text
        if isinstance(given, (dict, Mapping)):
            return {self._marked(key, own, ends): self._marked(value, own, ends) for key, value in given.items()}
        return [self._marked(one, own, ends) for one in given] if isinstance(given, (list, tuple)) else given

    def _with_edges(self, text: str) -> str:
        """With a mark at each end that could be a piece of a control token; within its blanks, which templates strip."""
        inner = text.strip()
        reach = range(1, min(self._longest, len(inner) + 1))
        within = len(inner) < self._longest and any(inner in token for token in self.tokens)
        begins = within or any(inner[:n] in self._lasts for n in reach)
        ends = within or any(inner[-n:] in self._firsts for n in reach)
        if not inner or not (begins or ends):
            return text
        before, _, after = text.partition(inner)
        return f"{before}{_EDGE if begins else ''}{inner}{_EDGE if ends else ''}{after}"

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.tokens), default=0)

    @cached_property
    def _firsts(self) -> frozenset[str]:
        return frozenset(token[:n] for token in self.tokens for n in range(1, len(token)))

    @cached_property
    def _lasts(self) -> frozenset[str]:
        return frozenset(token[n:] for token in self.tokens for n in range(1, len(token)))

    # --- from text to ids -----------------------------------------------------------------------------------------

    @cached_property
    def line_end(self) -> list[int]:
        return self._read("\n")

    def is_more_than_written(self, ids: np.ndarray, text: str) -> bool:
        """Whether the tokenizer read control tokens where the text has others that it takes for the same: wide letters."""
        found = int(np.isin(ids, self._ids).sum())
        return found > 0 and found > len(self.control_tokens.findall(text))

    def apart(self, text: str) -> Encoded:
        """Control tokens that are written, and what is between them as text."""
        parts, start = [], 0
        for match in self.control_tokens.finditer(text):
            ids = self._read(match.group())
            parts += [self.as_text(text[start : match.start()], start), arrays(ids, match.span() * len(ids))]
            start = match.end()
        return _joined(*parts, self.as_text(text[start:], start))

    def as_text(self, text: str, start: int = 0) -> Encoded:
        """Without control tokens: what the tokenizer takes for one is cut until it does not."""
        ids = encode_chat_piece(self.tokenizer, text, True, self.line_end) if text else []
        if not np.isin(ids, self._ids).any():
            return arrays(ids, (start, start + len(text)) * len(ids))
        if len(text) == 1:
            raise ValueError(f"{text!r} was typed, but the tokenizer cannot write it as plain text.")
        half = len(text) // 2
        return _joined(self.as_text(text[:half], start), self.as_text(text[half:], start + half))

    def _read(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)


def arrays(ids: Iterable[int], places: Iterable[int]) -> Encoded:
    return np.fromiter(ids, dtype=np.int64), np.fromiter(places, dtype=np.int64).reshape(-1, 2)


def _joined(*parts: Encoded) -> Encoded:
    ids, places = (np.concatenate(column) for column in zip(*parts, strict=True))
    return ids, places


@lru_cache
def _own_words(template: str) -> frozenset[str]:
    """Names of roles, types and keys that the template reads: marks would hide them from it."""
    words = (text.strip("'\"") for _, kind, text in Environment().lex(template) if kind in ("name", "string"))
    return _ROLES | {word for word in words if word.isidentifier()}
