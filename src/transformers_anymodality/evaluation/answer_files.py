"""Answers kept sample by sample, so that a run that was killed goes on, and a run can be scored again.

`results.json` has a folder `results.samples` beside it: per task `<task>.json`, what its answers depend on, and
`<task>.<rank>.jsonl`, to which each process appends a line per sample; and `<task>.ratings.jsonl`, what people or a judge
said of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..utils.files import json_lines, read_json, write_json


class AnswerFiles:
    """The answers of one task.

    Args:
        folder: of all tasks' answers.
        task: its name.
        settings: what answers depend on, as JSON has it; None to read only.

    Raises:
        ValueError: answers that are there were given under other settings.
    """

    def __init__(self, folder: str | Path, task: str, settings: Mapping[str, Any] | None = None):
        self.folder, self.task = Path(folder), task
        if settings is not None:
            self._check(json.loads(json.dumps(settings)))

    def _check(self, settings: dict[str, Any]) -> None:
        place = self.folder / f"{self.task}.json"
        if not place.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(place, settings)
            return
        before = read_json(place)
        for name in (settings | before).keys() - {"model"}:  # a folder has many names; the weights tell models apart
            if settings.get(name) != before.get(name):
                raise ValueError(
                    f"{self.folder} holds answers of {self.task} with {name}={before.get(name)!r}, not "
                    f"{settings.get(name)!r}: choose another output, or delete {place.stem}.* there."
                )

    def settings(self) -> dict[str, Any]:
        return read_json(self.folder / f"{self.task}.json")

    def append(self, rank: int | str, lines: Iterable[Mapping[str, Any]]) -> None:
        """Writes lines so that they survive this process."""
        path = self.folder / f"{self.task}.{rank}.jsonl"
        _drop_torn_line(path)
        with path.open("a", encoding="utf-8") as file:
            file.write(json_lines(lines))

    def read(self) -> dict[int, dict[str, Any]]:
        """Index of a sample -> its line, of all processes, in order; a line that is not whole yet is left out."""
        found = {}
        for path in sorted(self.folder.glob(f"{self.task}.[0-9]*.jsonl")):
            found |= {line["index"]: line for line in _lines(path)}
        return dict(sorted(found.items()))

    def rate(self, ratings: Mapping[int, Any]) -> None:
        """Keeps ratings, by the sample's index."""
        self.append("ratings", [{"index": index, "rating": rating} for index, rating in ratings.items()])

    def ratings(self) -> dict[int, Any]:
        """Index of a sample -> its last rating."""
        path = self.folder / f"{self.task}.ratings.jsonl"
        return {line["index"]: line["rating"] for line in _lines(path)} if path.exists() else {}

    def rated(self, count: int | None = None) -> list[dict[str, Any]]:
        """The lines of the first `count` samples in order, with `rating` where there is one."""
        ratings = self.ratings()
        return [
            {**line, "rating": ratings[index]} if index in ratings else line
            for index, line in self.read().items()
            if count is None or index < count
        ]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    *whole, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, text in enumerate(whole, 1):
        try:
            yield json.loads(text)
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number} is no JSON ({error}): delete the line to have it again."
            ) from None


def _drop_torn_line(path: Path) -> None:
    """Cuts off what a killed process left behind the last line's end."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
