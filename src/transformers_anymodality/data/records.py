"""Records as people have them, brought to one form: `messages`, and media in their parts or in columns."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..modalities import MODALITIES
from ..utils.registry import did_you_mean
from .webdataset import from_shard


# Who speaks, by the names that data sets have for them.
ROLES = {
    **dict.fromkeys(("system",), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot", "bard", "bing"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
}
_SCHEME = re.compile(r"data:|[a-zA-Z][a-zA-Z0-9+.-]*://", re.IGNORECASE)


def normalize(
    record: Mapping[str, Any], *, media_root: str | Path | None = None, markers: bool | None = None
) -> dict[str, Any]:
    """A record as a chat.

    Args:
        record: has `messages` (role and content) or `conversations` (from and value, as LLaVA and ShareGPT have it);
            media in content parts, or in columns in the order of their places: under a modality's argument name
            (`images`), its name (`image`) or that with an s. A sample of a WebDataset shard has its chat in `json`, or
            a caption in `txt`, and its media in fields by their suffix (`jpg`, `1.wav`, `imu.csv`).
        media_root: folder that relative paths are in.
        markers: whether `<image>`, `<audio>`, `<imu>`, ... within strings are the places of media. By default, in
            `conversations` they are; in `messages` they are words that somebody typed.

    Returns:
        A new dict with `messages`, media columns as lists by the processor's argument names, and all else as it was.

    Raises:
        ValueError: neither chat nor caption, a turn without words, an unknown speaker, media of one kind in two columns.
    """
    if "__key__" in record:
        record = from_shard(record)
    rest = {key: value for key, value in record.items() if key not in ("messages", "conversations", "system")}
    for name, column in media_columns(record).items():
        spec = MODALITIES[name]
        rest[spec.argument] = [
            rooted(one, media_root, spec.medium == "text") for one in items_of(name, rest.pop(column))
        ]
    if isinstance(rest.get("tools"), str):
        rest["tools"] = json.loads(rest["tools"] or "null")
    return {"messages": _messages(record, media_root, markers), **rest}


def media_columns(record: Mapping[str, Any]) -> dict[str, str]:
    """Modality -> the column that holds its media, for those that are not empty."""
    found = {}
    for name in MODALITIES:
        names = dict.fromkeys((MODALITIES[name].argument, name, f"{name}s"))
        columns = [column for column in names if not _is_empty(record.get(column))]
        if len(columns) > 1:
            raise ValueError(f"Media of {name!r} are in two columns, {columns[0]!r} and {columns[1]!r}: keep one.")
        if columns:
            found[name] = columns[0]
    return found


def items_of(modality: str, column: Any) -> list[Any]:
    """The media of a column that holds one, or several."""
    return [column] if MODALITIES[modality].is_item(column) else list(column)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, (str, list, tuple)) and not len(value))


def _messages(record: Mapping[str, Any], media_root: Any, markers: bool | None) -> list[dict[str, Any]]:
    key = "messages" if record.get("messages") is not None else "conversations"
    turns = record.get(key)
    if isinstance(turns, (str, Mapping)) or not isinstance(turns, Sequence) or not turns:
        raise ValueError(f"has no messages: {turns!r:.80} is not a list of some.")
    markers = key == "conversations" if markers is None else markers
    messages = [_message(i, turn, media_root, markers) for i, turn in enumerate(turns)]
    if isinstance(record.get("system"), str) and record["system"] and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": record["system"]})
    return messages


def _message(index: int, turn: Any, media_root: Any, markers: bool) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise ValueError(f"has a turn {index} that is no dict, but {type(turn).__name__}.")
    if "role" in turn:
        message = dict(turn)
        content = message.get("content")
        if isinstance(content, str) and markers:
            message["content"] = split_markers(content)
        elif isinstance(content, (list, tuple)):
            message["content"] = [_part(part, media_root) for part in content]
        return message
    speaker, value = turn.get("from"), turn.get("value")
    if not isinstance(speaker, str) or speaker.lower() not in ROLES:
        hint = did_you_mean(speaker, ROLES)
        raise ValueError(f"has a turn {index} from {speaker!r}.{hint} Known are {', '.join(ROLES)}.")
    if not isinstance(value, str):
        raise ValueError(f"has a turn {index} whose value is no string, but {value!r:.80}.")
    content = split_markers(value) if markers else [{"type": "text", "text": value}]
    return {"role": ROLES[speaker.lower()], "content": content}


def _part(part: Any, media_root: Any) -> Any:
    if not isinstance(part, Mapping) or part.get("type") not in MODALITIES:
        return part
    part, name = dict(part), part["type"]
    if part.get("path") is not None:
        part["path"] = rooted(part["path"], media_root)
    if part.get(name) is not None:
        part[name] = rooted(part[name], media_root, MODALITIES[name].medium == "text")
    return part


def split_markers(text: str, tokens: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    """Content parts of a string: a bare part for each marker, where it stands, and the words between, unchanged.

    Args:
        tokens: marker -> modality; `<name>` for each that is registered if left out.
    """
    tokens = {MODALITIES[name].token: name for name in MODALITIES} if tokens is None else tokens
    pieces = re.split(f"({'|'.join(map(re.escape, tokens))})", text)
    parts = [
        {"type": tokens[piece]} if piece in tokens else {"type": "text", "text": piece} for piece in pieces if piece
    ]
    return parts or [{"type": "text", "text": ""}]


def rooted(source: Any, media_root: str | Path | None, is_text: bool = False) -> Any:
    """A medium with relative paths put into `media_root`; what is no path stays as it is. With `is_text`, a string is no
    path."""
    if media_root is None:
        return source
    if isinstance(source, Path) or (isinstance(source, str) and not is_text):
        if _SCHEME.match(str(source)) or str(source).startswith("~"):
            return source
        path = Path(media_root, source)
        return str(path) if isinstance(source, str) else path
    if isinstance(source, list):
        return [rooted(one, media_root, is_text) for one in source]
    if isinstance(source, Mapping):
        keys = [key for key in ("path", "frames") if source.get(key) is not None and source.get("bytes") is None]
        return {**source, **{key: rooted(source[key], media_root) for key in keys}}
    return source
