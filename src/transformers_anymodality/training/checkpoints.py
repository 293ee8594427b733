"""The checkpoint from which a training run continues: the newest complete one."""

import os
import re
import zipfile
import zlib
from pathlib import Path

from transformers.utils import logging

from anymodality.plain.files import read_json, shard_names, stored_tensors

from ..utils.files import changed_file


logger = logging.get_logger(__name__)


def last_checkpoint(folder: str | os.PathLike) -> str | None:
    """The newest complete `checkpoint-*` in a Trainer's output folder; None if there is none.

    Damaged ones, from a killed process or a full disk, are skipped with a warning that says why. A file counts as damaged
    if it is cut off, or if it is missing and the other checkpoints have it. A changed byte is detected in weights that
    `save_pretrained` of a composite wrote, and in files that torch wrote.
    """
    places = sorted(filter(_number, Path(folder).glob("checkpoint-*")), key=_number, reverse=True)
    for place in places:
        others = [_kinds(other) for other in places if other != place]
        reason = _torn(place, set.intersection(*others) if others else set())
        if not reason:
            return str(place)
        logger.warning(f"{place} is skipped: {reason}. You may delete it.")
    return None


def _number(place: Path) -> int:
    number = place.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def _kinds(place: Path) -> set[str]:
    """Names of files, without the numbers of processes and shards."""
    return {re.sub(r"[-_]?\d+(-of-\d+)?", "", file.name) for file in place.iterdir()}


def _torn(place: Path, usual: set[str]) -> str:
    """What is wrong with a checkpoint, or ""; `usual`: files that all others have."""
    if not (place / "trainer_state.json").is_file():
        return "trainer_state.json, which is written last, is missing"
    if missing := sorted(usual - _kinds(place)):
        return f"{', '.join(missing)} is missing"
    try:
        for file in sorted(place.rglob("*")):
            _check(file)
        state = read_json(place / "trainer_state.json")
        if not isinstance(state, dict) or state.get("global_step") != _number(place):
            return "trainer_state.json belongs to another step"
        return changed_file(place)
    except (OSError, ValueError) as error:
        return str(error)


def _check(file: Path) -> None:
    """Raises OSError or ValueError for an incomplete file, as far as its format shows it."""
    if file.name.endswith(".index.json"):
        for name in shard_names(file):
            (file.parent / name).stat()
    elif file.suffix == ".json":
        read_json(file)
    elif file.suffix == ".safetensors":
        stored_tensors(file)
    elif file.suffix in (".pt", ".pth", ".bin"):
        try:
            with zipfile.ZipFile(file) as content:
                bad = content.testzip()
        # A flipped bit may ask for a password (RuntimeError) or an unknown compression (NotImplementedError, its subclass).
        except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:
            raise ValueError(f"{file.name} is cut off or damaged ({error})") from error
        if bad is not None:
            raise ValueError(f"{file.name} is damaged ({bad} in it)")
