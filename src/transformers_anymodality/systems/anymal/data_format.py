"""AnyMAL's multimodal instructions, as its paper shows them; none were released."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...data.formats import chat, listed, places, register_format, words
from ...data.records import media_columns
from ...modalities import MODALITIES


@register_format(
    "anymal",
    help="AnyMAL's MM-IT: instruction, response, and media by their names",
    example={"image": "x.jpg", "imu": "x.csv", "instruction": "Write a slogan for this.", "response": "Run free."},
)
def convert(record: Mapping[str, Any], index: int, media_root: Path | None) -> Iterator[dict[str, Any]]:
    """The instruction stands in front of the media."""
    media = {name: listed(record[column]) for name, column in media_columns(record).items()}
    columns = {MODALITIES[name].argument: items for name, items in media.items()}
    question = [*words(record["instruction"]), *places(**media)]
    yield chat(("user", question), ("assistant", record["response"]), **columns)
