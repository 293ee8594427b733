"""PandaGPT's visual instructions: conversations about one image each, which no marker stands for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ...data.formats import chat, places, register_format, words
from ...data.records import ROLES


@register_format(
    "pandagpt",
    help="PandaGPT's pandagpt4_visual_instruction_data.json: image_name and conversation",
    example={
        "image_name": "000000000001",
        "conversation": [
            {"from": "human", "value": "What is on the table?"},
            {"from": "gpt", "value": "A red mug and two pens."},
            {"from": "human", "value": "How many pens?"},
            {"from": "gpt", "value": "Two."},
        ],
    },
)
def convert(record: Mapping[str, Any], index: int, media_root: Path | None) -> Iterator[dict[str, Any]]:
    """The image stands in front of the first question. A name without suffix gets `.jpg`."""
    name = record.get("image_name")
    images = [] if not name else [name if PurePosixPath(name).suffix else f"{name}.jpg"]
    turns: list[Any] = [(ROLES[turn["from"]], turn["value"]) for turn in record["conversation"]]
    if not turns or turns[0][0] != "user":
        raise ValueError("the first turn is not the human's")
    turns[0] = ("user", [*places(image=images), *words(turns[0][1])])
    yield chat(*turns, images=images)
