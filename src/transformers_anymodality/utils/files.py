"""JSON, weight files, and files that are written completely or not at all."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open


def read_json(file: str | Path) -> Any:
    return json.loads(Path(file).read_text(encoding="utf-8"))


def check_new(output: str | Path) -> None:
    """Raises FileExistsError for a path that is taken; an empty folder is not."""
    path = Path(output)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{output} exists already: choose another --output, or remove it.")


def json_lines(rows: Iterable[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_json(path: Path, content: Any, **settings: Any) -> None:
    """Writes a JSON document, whole or not at all; `settings` are those of `json.dumps`."""
    with written_whole(path) as file:
        file.write_text(json.dumps(content, **{"indent": 2, **settings}) + "\n", encoding="utf-8")


@contextmanager
def written_whole(path: Path, writer: str | int | None = None) -> Iterator[Path]:
    """A temporary file beside `path`, which replaces it at the end; if that fails, it is deleted.

    Its name holds `writer` (the process's id by default), so that a killed one leaves one file behind at most.
    """
    temporary = path.with_name(f".{os.getpid() if writer is None else writer}.{path.suffix[1:]}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def shard_names(index: str | Path) -> list[str]:
    """The files that an index (`model.safetensors.index.json`) spreads tensors over."""
    return sorted(set(read_json(index)["weight_map"].values()))


@contextmanager
def open_weights(file: Path) -> Iterator[safe_open]:
    """A safetensors file, of which no more than the header is read until its tensors are asked for. Raises ValueError for
    one that is cut off, or something else."""
    try:
        with safe_open(file, "pt") as weights:
            yield weights
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged, or is not a safetensors file ({error}).") from error
