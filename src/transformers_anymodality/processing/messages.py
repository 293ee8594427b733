"""Messages of chats as dicts, and the media in them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from ..modalities import MODALITIES, UnknownModalityError
from ..utils.registry import did_you_mean


def read_chats(conversation: Any) -> tuple[list[list[dict[str, Any]]], bool]:
    """Chats whose messages are dicts, and whether several were given.

    Args:
        conversation: a list of messages (dicts, dataclasses, pydantic models), an object that has such `messages`, or a
            list of these.

    Raises:
        ValueError: none of these, or a chat without messages.
    """
    if not isinstance(conversation, (list, tuple)) and not hasattr(conversation, "messages"):
        raise ValueError(f"A chat is a list of messages, or a list of such lists; not {type(conversation).__name__}.")
    several = bool(conversation) and isinstance(conversation, (list, tuple))
    several = several and all(isinstance(chat, (list, tuple)) or hasattr(chat, "messages") for chat in conversation)
    return [_messages(chat) for chat in (conversation if several else [conversation])], several


def _messages(chat: Any) -> list[dict[str, Any]]:
    messages = [_plain(message) for message in getattr(chat, "messages", chat)]
    if not messages:
        raise ValueError("A chat has no messages.")
    if not all(isinstance(message, dict) for message in messages):
        raise ValueError("A chat has messages that are no dicts with a role and a content.")
    # None is what some APIs write for what is not there, and templates would write it out.
    return [{key: value for key, value in message.items() if value is not None} for message in messages]


def _plain(value: Any) -> Any:
    """Dicts for dataclasses and pydantic models, wherever they are but in media; an OpenAI `image_url` as an image."""
    if isinstance(value, str):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    elif callable(dump := getattr(value, "model_dump", None)):
        value = dump()
    if isinstance(value, Mapping):
        if value.get("type") == "image_url" and (image := value.get("image_url")) is not None:
            return {"type": "image", "url": image.get("url", "") if isinstance(image, Mapping) else image}
        return dict(value) if _is_medium(value) else {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _is_medium(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in MODALITIES


def media_of(messages: Iterable[Any], modalities: Collection[str]) -> dict[str, list[Any]]:
    """Modality -> the media of one chat, in their order.

    Args:
        modalities: those of the model.

    Raises:
        ValueError: a message or a part of one that makes no sense.
        UnknownModalityError: a part of another type.
    """
    found: dict[str, list[Any]] = {}
    for turn, message in enumerate(messages):
        if not isinstance(message, dict) or "role" not in message:
            raise ValueError(f"Message {turn} is no dict with a role and a content.")
        content = message.get("content") or []
        if isinstance(content, dict) and message["role"] in ("system", "user", "assistant"):
            raise ValueError(f"Message {turn} has a dict for its content, where a string or a list of parts belongs.")
        for part in content if isinstance(content, (list, tuple)) else ():
            kind = _kind(turn, part, modalities)
            if kind != "text" and (source := part_source(kind, part)) is not None:
                found.setdefault(kind, []).append(source)
    return found


def _kind(turn: int, part: Any, modalities: Collection[str]) -> str:
    """A content part's type."""
    if isinstance(part, str):
        return "text"
    if not isinstance(part, dict):
        raise ValueError(f"Message {turn} has a part that is neither a dict nor a string: {type(part).__name__}.")
    kind = part.get("type", "text")
    if kind == "text" and not isinstance(part.get("text"), str):
        raise ValueError(f"Message {turn} has a text part whose text is {part.get('text')!r}.")
    if kind != "text" and kind not in modalities:
        raise UnknownModalityError(
            f'Message {turn} has a part of type {kind!r}, but this model takes "text" and '
            f"{', '.join(modalities) or 'nothing else'}.{did_you_mean(kind, modalities)}"
        )
    return kind


def parts_of(messages: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The content parts of messages; a string is one of text."""
    for message in messages:
        content = message.get("content")
        for part in [content] if isinstance(content, str) else content if isinstance(content, (list, tuple)) else ():
            if isinstance(part, (str, Mapping)):
                yield {"type": "text", "text": part} if isinstance(part, str) else part


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message, without what stands for media."""
    return "".join(part.get("text") or "" for part in parts_of([message]))


def part_source(kind: str, part: Mapping[str, Any]) -> Any:
    """The medium of a content part, or None for a bare placeholder whose medium is given apart."""
    if part.get(kind) is not None:
        return part[kind]
    if part.get("path") is not None:
        return Path(part["path"])
    if part.get("url") is not None:
        return part["url"]
    rest = {key: part[key] for key in ("base64", "bytes", "array", "values", "sampling_rate", "time") if key in part}
    return rest or None


def without_media(messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages as templates get them: of a medium only its type, and where it is. Templates are anybody's code, and are
    given copies of all the rest."""
    bare = []
    for message in messages:
        if isinstance(content := message.get("content"), (list, tuple)):
            message = {**message, "content": [_place(part) if _is_medium(part) else part for part in content]}
        bare.append(message)
    return bare


def _place(part: Mapping[str, Any]) -> dict[str, Any]:
    told = ("type", "url", "path")
    return {key: value if key in told and isinstance(value, str) else True for key, value in part.items()}
