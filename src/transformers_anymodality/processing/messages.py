"""Messages of chats, as dicts, and the media in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from ..modalities import MODALITIES, UnknownModalityError
from ..utils.registry import did_you_mean
from .media_inputs import ModalityInputs


class MessagesMixin:
    """The part of the processor that reads messages."""

    modalities: dict[str, ModalityInputs]

    def _normalize_conversations(self, conversation: Any) -> tuple[list[list[dict]], bool]:
        """Chats with messages that are dicts, and whether several were given."""
        if not isinstance(conversation, (list, tuple)) and not hasattr(conversation, "messages"):
            raise ValueError(
                f"A chat is a list of messages, or a list of such lists; not {type(conversation).__name__}."
            )
        several = bool(conversation) and isinstance(conversation, (list, tuple))
        several = several and all(
            isinstance(chat, (list, tuple)) or hasattr(chat, "messages") for chat in conversation
        )
        return [self._messages(chat) for chat in (conversation if several else [conversation])], several

    def _messages(self, chat: Any) -> list[dict]:
        messages = [self._plain(message) for message in getattr(chat, "messages", chat)]
        if not messages:
            raise ValueError("A chat has no messages.")
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("A chat has messages that are no dicts with a role and a content.")
        # None is what some APIs write for what is not there, and templates would write it out.
        return [{key: value for key, value in message.items() if value is not None} for message in messages]

    def _plain(self, value: Any) -> Any:
        """Dicts for dataclasses and pydantic models, wherever they are but in media; an OpenAI `image_url` as an image."""
        if is_dataclass(value) and not isinstance(value, type):
            value = {field.name: getattr(value, field.name) for field in fields(value)}
        elif callable(dump := getattr(value, "model_dump", None)):
            value = dump()
        if isinstance(value, Mapping):
            if value.get("type") == "image_url" and (image := value.get("image_url")) is not None:
                return {"type": "image", "url": image.get("url", "") if isinstance(image, Mapping) else image}
            medium = value.get("type") in self.modalities
            return {key: entry if medium else self._plain(entry) for key, entry in value.items()}
        return [self._plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value

    def _media_of_all(self, chats: list[list[dict]]) -> dict[str, list[list[Any]]]:
        """Argument of the processor's call -> media of each chat."""
        found = [self.media_of(chat) for chat in chats]
        named = {MODALITIES[name].argument: [media.get(name, []) for media in found] for name in self.modalities}
        return {argument: media for argument, media in named.items() if any(media)}

    def media_of(self, conversation: list[dict]) -> dict[str, list[Any]]:
        """Modality -> the media of one conversation, in their order."""
        found: dict[str, list[Any]] = {}
        for turn, message in enumerate(conversation):
            if not isinstance(message, dict) or "role" not in message:
                raise ValueError(f"Message {turn} is no dict with a role and a content.")
            content = message.get("content") or []
            if isinstance(content, dict) and message["role"] in ("system", "user", "assistant"):
                raise ValueError(
                    f"Message {turn} has a dict for its content, where a string or a list of parts belongs."
                )
            for part in content if isinstance(content, (list, tuple)) else ():
                kind = self._kind(turn, part)
                if kind != "text" and (source := part_source(kind, part)) is not None:
                    found.setdefault(kind, []).append(source)
        return found

    def _kind(self, turn: int, part: Any) -> str:
        """A content part's type; raises ValueError for a part that makes no sense."""
        if isinstance(part, str):
            return "text"
        if not isinstance(part, dict):
            raise ValueError(f"Message {turn} has a part that is neither a dict nor a string: {type(part).__name__}.")
        kind = part.get("type", "text")
        if kind == "text" and not isinstance(part.get("text"), str):
            raise ValueError(f"Message {turn} has a text part whose text is {part.get('text')!r}.")
        if kind != "text" and kind not in self.modalities:
            raise UnknownModalityError(
                f'Message {turn} has a part of type {kind!r}, but this model takes "text" and '
                f"{', '.join(self.modalities) or 'nothing else'}.{did_you_mean(kind, self.modalities)}"
            )
        return kind


def part_source(kind: str, part: dict[str, Any]) -> Any:
    """The medium of a content part, or None for a bare placeholder whose medium is given apart."""
    if part.get(kind) is not None:
        return part[kind]
    if part.get("path") is not None:
        return Path(part["path"])
    if part.get("url") is not None:
        return part["url"]
    rest = {key: part[key] for key in ("base64", "bytes", "array", "values", "sampling_rate", "time") if key in part}
    return rest or None
