"""LLaVA's JSON, and ShareGPT's, which is the same without images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..records import media_columns, normalize
from ._base import register_format


@register_format(
    "llava",
    help="LLaVA's and ShareGPT's: conversations with <image> (or <video>, <audio>, ...) where media stand",
    example={
        "id": "1",
        "image": "coco/1.jpg",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat colour is the bus?"},
            {"from": "gpt", "value": "It is red."},
            {"from": "human", "value": "How many people are in it?"},
            {"from": "gpt", "value": "Two."},
        ],
    },
)
def convert(record: Mapping[str, Any], index: int, media_root: Path | None) -> Iterator[dict[str, Any]]:
    """Markers stay where they are. (LLaVA's own code moves them to the front of their turn.) As in that code, a record
    without any media is text, `<image>` and all."""
    if "conversations" not in record:
        raise KeyError("conversations")
    yield normalize(record, markers=bool(media_columns(record)))
