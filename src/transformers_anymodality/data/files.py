"""Files of records, read so that each record can be looked at by itself, and a broken one stands alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class _Lines(Sequence):
    """Lines of JSON, parsed when asked for. (JSON may hold line ends other than `\\n` as they are.)"""

    def __init__(self, content: str):
        self.lines = [(i, line) for i, line in enumerate(content.split("\n"), 1) if line.strip()]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Any:
        number, line = self.lines[index]
        try:
            return json.loads(line)
        except ValueError as error:
            raise ValueError(f"Line {number} is no JSON ({error}).") from error


def open_records(file: str | Path, split: str = "train") -> Sequence[Any]:
    """The records of a file.

    Args:
        file: JSON (a list, or an object whose one list it is), JSONL, or what `datasets` reads (Parquet, WebDataset
            shards, a folder, a Hub id).
        split: of what `datasets` reads.

    Returns:
        A sequence; of JSONL, a line that is no JSON raises ValueError when it is asked for.
    """
    path = Path(file).expanduser()
    if path.suffix not in (".json", ".jsonl"):
        from .datasets import load_raw

        return load_raw(str(file), split=split)
    content = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".jsonl":
        return _Lines(content)
    try:
        found = json.loads(content)
    except ValueError as error:
        lines = _Lines(content)
        if len(lines) > 1 and isinstance(_parsed(lines.lines[0][1]), Mapping):
            return lines
        raise ValueError(f"{file} is no JSON ({error}).") from error
    if isinstance(found, Mapping):
        lists = [value for value in found.values() if isinstance(value, list)]
        found = lists[0] if len(lists) == 1 else [found]
    if not isinstance(found, list):
        raise ValueError(f"{file} holds a {type(found).__name__}, expected a list of records.")
    return found


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
