"""Samples of WebDataset shards, whose fields are files named by suffix, as records."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..modalities import MODALITIES


_TEXT = ("json", "txt")


def from_shard(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A record from a sample as `datasets` reads it: `__key__`, and a field per file.

    The chat is in `json`; without one, `txt` is a caption, which the assistant says of the media. Media are found by
    suffix (`jpg`, `2.jpg`, `wav`) or, where several modalities have it, by name (`depth.png`, `imu.csv`), in the order
    of their names.
    """
    given = sample.get("json")
    record: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}
    media: dict[str, list[Any]] = {}
    fields = [field for field in sample if not field.startswith("__") and field not in _TEXT]
    for field in sorted(fields, key=_natural):
        if sample[field] is not None and (name := modality_of_field(field)) is not None:
            media.setdefault(name, []).append(sample[field])
    for name, items in media.items():  # files in the shard, rather than names that its chat may still have for them
        record = {key: value for key, value in record.items() if key not in (name, f"{name}s")}
        record[MODALITIES[name].argument] = items
    if not ("messages" in record or "conversations" in record) and isinstance(sample.get("txt"), str):
        places = [{"type": name} for name, items in media.items() for _ in items]
        words = [{"type": "text", "text": sample["txt"]}]
        record["messages"] = [{"role": "user", "content": places}, {"role": "assistant", "content": words}]
    return {**record, "id": record.get("id", sample["__key__"])}


def modality_of_field(field: str) -> str | None:
    """The modality of a field, or None for one that holds no medium."""
    *names, suffix = field.lower().split(".")
    for part in names:
        part = re.sub(r"[_-]?\d+$", "", part)
        for name in MODALITIES:
            if part in (name, MODALITIES[name].argument):
                return name
    for name in MODALITIES:
        spec = MODALITIES[name]
        if f".{suffix}" in spec.suffixes and spec.medium in ("pixels", "audio") and suffix != "npy":
            return name
    return None


def _natural(text: str) -> list[tuple[int, str]]:
    """Sorts "2" before "10"."""
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", text)]
