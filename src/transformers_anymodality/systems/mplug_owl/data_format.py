"""mPLUG-Owl's JSONL for instruction tuning: dialogues as one text, with and without images."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...data.formats import chat, listed, register_format, words
from ...data.records import split_markers
from . import SYSTEM


_SPEAKER = re.compile(r"(?:\A|\n)(Human|AI):(?: |(?=\n)|\Z)")
_MARKERS = {"<image>": "image", "<|video|>": "video"}


@register_format(
    "mplug_owl",
    help="mPLUG-Owl's sft JSONL: task_type, image, and text with lines of Human: and AI:; text-only rows, too",
    example={
        "task_type": "llava_sft",
        "image": ["imgs/0001.jpg"],
        "prompt": "",
        "text": f"{SYSTEM}\nHuman: <image>\nHuman: What animal is this?\nAI: A grey cat.",
    },
)
def convert(record: Mapping[str, Any], index: int, media_root: Path | None) -> Iterator[dict[str, Any]]:
    """Lines of a human side by side are one turn. What precedes the first speaker is the system's, left out where it is
    mPLUG-Owl's own line, which its template writes. Speakers are told at the begin of lines only, where the original
    takes any `AI: `. In rows without media, `<image>` is text. `task_type` is kept, for mixtures."""
    images, videos = listed(record.get("image")), listed(record.get("video"))
    media = {"<image>": images, "<|video|>": videos}
    tokens = {token: name for token, name in _MARKERS.items() if media[token]}
    system, *pieces = _SPEAKER.split((record.get("prompt") or "") + record["text"])
    if not pieces:
        raise ValueError("its text has no line of Human: or AI:")
    turns: list[tuple[str, Any]] = []
    for speaker, said in zip(pieces[::2], pieces[1::2], strict=True):
        parts = split_markers(said, tokens) if tokens else words(said)
        if speaker == "Human" and turns and turns[-1][0] == "user":
            turns[-1][1].extend(parts)
        else:
            turns.append(("user" if speaker == "Human" else "assistant", parts))
    if system.strip() and system.strip() != SYSTEM:
        turns.insert(0, ("system", system.strip()))
    yield chat(*turns, images=images, videos=videos, task_type=record.get("task_type"))
