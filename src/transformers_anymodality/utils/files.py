"""JSON, weight files and their checksums, and files that are written completely or not at all."""

import json
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from anymodality.plain.files import read_json


def check_new(output: str | Path) -> None:
    """Raises FileExistsError if the path exists; an empty folder is allowed."""
    path = Path(output)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{output} exists already: choose another --output, or remove it.")


def json_lines(rows: Iterable[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_json(path: Path, content: Any, **settings: Any) -> None:
    """Writes a JSON document, completely or not at all; `settings` are those of `json.dumps`."""
    with written_whole(path) as file:
        file.write_text(json.dumps(content, **{"indent": 2, **settings}) + "\n", encoding="utf-8")


@contextmanager
def written_whole(path: Path, writer: str = "") -> Iterator[Path]:
    """A temporary file next to `path`, which replaces it at the end; if writing fails, it is deleted.

    A killed process leaves it. Its name holds `writer`, whose next file replaces it, or machine and process, so that
    `delete_unfinished` finds it.

    Raises:
        OSError: it cannot be written, for example because the disk is full; the message names `path`.
    """
    temporary = path.with_name(f".{writer or f'{platform.node()}.{os.getpid()}'}.{path.suffix[1:]}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        if getattr(error, "filename", None) not in (None, str(temporary)):  # an error of reading another file
            raise
        message = f"{path} could not be written: {error}. Its previous content, if any, is unchanged."
        number = getattr(error, "errno", None)
        raise (OSError(message) if number is None else OSError(number, message)) from error
    finally:
        temporary.unlink(missing_ok=True)


def delete_unfinished(folder: Path) -> None:
    """Deletes files of `written_whole` that killed processes of this machine left."""
    for file in folder.glob(f".{platform.node()}.*.tmp") if os.name == "posix" else ():
        try:
            os.kill(int(file.name.split(".")[-3]), 0)  # which only asks whether the process is there
        except ProcessLookupError:
            file.unlink(missing_ok=True)
        except (PermissionError, ValueError):  # another user's, or a name that is not ours
            continue


# --- checksums of weights ------------------------------------------------------------------------------------------------

CHECKSUMS, _KIND = "checksums.json", "sum of 64-bit words"


def checksum(file: Path) -> int:
    """Sum of a file's 64-bit words, and of its length. It changes with any bit, and is four times as fast as CRC-32, which
    takes as long as writing the file does."""
    content = np.memmap(file, "u1", "r")
    words = len(content) // 8 * 8
    return int(content[:words].view("<u8").sum()) + int.from_bytes(content[words:].tobytes(), "little") + len(content)


def write_checksums(folder: str | Path) -> None:
    """Writes the checksums of the weight files in a folder to a file."""
    files = sorted(Path(folder).glob("*.safetensors"))
    if files:
        write_json(Path(folder, CHECKSUMS), {"kind": _KIND, "files": {file.name: checksum(file) for file in files}})


def changed_file(folder: Path) -> str:
    """What has changed since `write_checksums`, or ""; also "" if that was not called, or by a version that wrote CRC-32.

    Raises ValueError if the checksums themselves are damaged."""
    if not (folder / CHECKSUMS).is_file():
        return ""
    said = read_json(folder / CHECKSUMS)
    files = said.get("files", {}) if isinstance(said, dict) else None
    if not isinstance(files, dict):
        raise ValueError(f"{CHECKSUMS} is damaged")
    for name, expected in files.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if checksum(folder / name) != expected:
            return f"{name} does not match its checksum"
    return ""


@contextmanager
def open_weights(file: Path) -> Iterator[safe_open]:
    """An open safetensors file; only its header is read until its tensors are needed. Raises ValueError if it is cut off,
    or in another format."""
    try:
        with safe_open(file, "pt") as weights:
            yield weights
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged, or is not a safetensors file ({error}).") from error
