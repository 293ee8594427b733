"""Words of others, where people read them: in terminals, in Markdown, in JSON."""

import json
import re
from typing import Any


# Terminals obey these (but for tabs and line ends), or hide what stands behind them; some cannot be written at all.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_MARKDOWN = re.compile(r"[\\`*\[\]<>|#~]")


def visible(text: Any) -> str:
    """Text for a terminal or a log, with what it would obey spelled out: `\\x1b`."""
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], str(text))


def as_json(document: Any) -> str:
    """JSON for people, in which terminals find nothing to obey."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def in_markdown(text: Any) -> str:
    """One line of Markdown that reads as the text does, also in the cell of a table."""
    return _MARKDOWN.sub(r"\\\g<0>", " ".join(visible(text).split()))


def as_code(text: Any) -> str:
    """A text between backticks, in a line of its own or the cell of a table."""
    return f"`{' '.join(visible(text).split()).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def fence(text: str) -> str:
    """What to put around a block of code: more backticks than are in it."""
    return "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
