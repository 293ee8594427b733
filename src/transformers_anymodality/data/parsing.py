"""Finds what is wrong in JSON and WebDataset shards, and where."""

import json
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from typing import Any


def parse(content: bytes, where: str) -> Any:
    """JSON in UTF-8; raises ValueError for anything else."""
    try:
        found = json.loads(content.decode("utf-8"))
        if b"\\ud" in content.lower():
            json.dumps(found, ensure_ascii=False).encode("utf-8")  # fails for lone surrogates
        return found
    except RecursionError as error:
        raise ValueError(f"{where} is nested too deeply.") from error
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error}).") from error


def explain_shard(file: str) -> None:
    """Raises ValueError for the first sample that differs from those before it, or holds invalid JSON or text."""
    samples: dict[str, set[str]] = {}
    kinds: dict[type, str] = {}
    with suppress(tarfile.TarError), tarfile.open(file) as tar:
        for member in filter(tarfile.TarInfo.isfile, tar):
            folder, slash, name = member.name.rpartition("/")
            key, _, field = name.partition(".")
            where, stream = f"{file}, {member.name}", tar.extractfile(member)
            content = stream.read() if stream is not None and field in ("json", "txt") else b""
            if field in samples.setdefault(folder + slash + key, set()):
                raise ValueError(f"{where} occurs twice.")
            samples[folder + slash + key].add(field)
            if field == "txt":
                _checked_text(content, where)
            if field != "json":
                continue
            if not isinstance(found := parse(content, where), Mapping):
                raise ValueError(f"{where} holds a {type(found).__name__}, expected an object.")
            turns = found.get("messages")
            for turn in turns if isinstance(turns, list) else ():
                kinds.setdefault(type(turn.get("content") if isinstance(turn, Mapping) else turn), where)
            if len(kinds) > 1:
                raise ValueError(f"{where} holds messages with lists and other contents: make all of them lists.")
    first = next(iter(samples.values()), set())
    for key, fields in samples.items():
        if fields != first:
            raise ValueError(f"{file}: sample {key!r} has {sorted(fields)}; the first has {sorted(first)}.")


def _checked_text(content: bytes, where: str) -> None:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8 text ({error}).") from error
