"""Who may say what: what people typed stays text, wherever it was typed and however it is cut.

A chat template puts control tokens and placeholders around text of anybody. A control token that stands in one string is
marked there. Others come about only where the template joins strings ("<|im_" and "end|>" in two parts, a role between
"<|" and "|>"): strings that could be a piece of a control token are marked at their ends, and the chat is written again. If
fewer control tokens are written then, the others were nobody's to write, and the marks stay.
"""

import re
from collections.abc import Callable, Collection, Mapping
from functools import cached_property, lru_cache
from typing import Any

from jinja2 import Environment


# Noncharacters, of which texts are rid before they are marked: nobody can forge a mark, these or others of this package.
_START, _END, _EDGE = "\ufdd3", "\ufdd4", "\ufdd5"
_MARKS = re.compile("[\ufdd0-\ufdd5]")
# Roles that templates write without naming them.
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


class TypedText:
    """Marks what was typed, so that it can be told from what a template writes.

    Args:
        tokens: control tokens, placeholders among them.
    """

    def __init__(self, tokens: Collection[str]):
        self.tokens = tokens
        one = "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)"
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
        if isinstance(given, Mapping):
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


@lru_cache
def _own_words(template: str) -> frozenset[str]:
    """Names of roles, types and keys that the template reads: marks would hide them from it."""
    words = (text.strip("'\"") for _, kind, text in Environment().lex(template) if kind in ("name", "string"))
    return _ROLES | {word for word in words if word.isidentifier()}
