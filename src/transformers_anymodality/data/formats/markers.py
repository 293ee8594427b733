"""Chats whose strings have markers for media: as LLaMA-Factory and ms-swift have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..records import normalize
from ._base import register_format


@register_format(
    "markers",
    help="LLaMA-Factory's and ms-swift's: messages with <image> in their strings, columns images, videos, audios",
    example={
        "messages": [
            {"role": "user", "content": "<image><audio>Who speaks here?"},
            {"role": "assistant", "content": "The man on the left."},
        ],
        "images": ["frames/7.png"],
        "audios": ["sound/7.wav"],
    },
)
def convert(record: Mapping[str, Any], index: int, media_root: Path | None) -> Iterator[dict[str, Any]]:
    if not ({"messages", "conversations"} & record.keys()):
        raise KeyError("messages")
    yield normalize(record, markers=True)
