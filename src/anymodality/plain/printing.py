"""Untrusted text made safe to show: in terminals, in Markdown, in JSON."""

import json
import re
from typing import Any


# Terminals obey these (except tabs and line ends), or hide the text after them; some cannot be written at all.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_MARKDOWN = re.compile(r"[\\`*\[\]<>|#~]")


def visible(text: Any) -> str:
    """Text for a terminal or a log, with control characters escaped: `\\x1b`."""
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], str(text))


def as_json(document: Any) -> str:
    """Readable JSON without control characters."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def size(count: int) -> str:
    """A number of bytes with its unit: MB, or kB for less than a tenth of that."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"


def in_markdown(text: Any) -> str:
    """One line of Markdown that shows the text unchanged, also in the cell of a table."""
    return _MARKDOWN.sub(r"\\\g<0>", " ".join(visible(text).split()))


def as_code(text: Any) -> str:
    """A text between backticks, for a line or the cell of a table."""
    return f"`{' '.join(visible(text).split()).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def fence(text: str) -> str:
    """The fence of a code block: more backticks than the block has."""
    return "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
