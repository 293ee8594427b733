"""The one reading of a record: its chat with every medium in its part, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..media import MediaError
from ..modalities import MODALITIES, UnknownModalityError
from ..processing.messages import media_of, part_source, parts_of, read_chats
from ..processing.tokenization import Prompt, count_error
from .records import items_of, media_columns, normalize


MEDIA_ROOT = "Relative paths are looked for in the media root (`media_root`)."


class RecordError(ValueError):
    """A record cannot be used. `kind` is one of those that `check` reports, `modality` the one that it is about."""

    def __init__(self, message: str, kind: str = "broken_record", modality: str | None = None):
        super().__init__(message)
        self.kind, self.modality = kind, modality


@dataclass
class Chat:
    """A record as training, evaluation and features read it.

    Attributes:
        where: its name in errors: its place, and its id where it has one.
        messages: content parts hold their media, also those that the record has in columns.
        media: modality -> its media, in the order of their parts.
        tools: for the chat template.
        problems: what is wrong. A record that cannot be read has no messages.
    """

    where: str
    messages: list[dict[str, Any]] = field(default_factory=list)
    media: dict[str, list[Any]] = field(default_factory=dict)
    tools: list[Any] | None = None
    problems: list[RecordError] = field(default_factory=list)

    def checked(self) -> Chat:
        """The chat itself; raises the first of its problems."""
        for problem in self.problems:
            raise problem
        return self

    def encode(self, processor: Any) -> Prompt | None:
        """The chat's tokens, with what the assistant said. What is wrong becomes a problem, also what a template raises;
        None if there are no tokens then."""
        if not self.messages:
            return None
        try:
            prompt = processor.tokenize_chat(self.messages, self.tools, said=True)
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # templates raise what they like
            self.fail(error)
            return None
        for name, token_id in processor.prompt_tokenizer.placeholders.items():
            self.count(name, processor.modalities[name].token, prompt.count(token_id))
        if not prompt.said.any():
            self.add("has no assistant text to train on.", "no_answer")
        return prompt

    def add(self, problem: str, kind: str, modality: str | None = None) -> None:
        message = f"{self.where}{' ' if problem.startswith('has ') else ': '}{problem}"
        self.problems.append(RecordError(message, kind, modality))

    def fail(self, error: Exception) -> None:
        """Makes a problem of what was raised."""
        kind = "unknown_modality" if isinstance(error, UnknownModalityError) else "broken_record"
        self.add(str(error), kind)
        self.problems[-1].__cause__ = error

    def count(self, modality: str, token: str, places: int) -> None:
        """Makes a problem of it if there are more or fewer media than placeholders."""
        given = len(self.media.get(modality, ()))
        if places != given and not any(problem.modality == modality for problem in self.problems):
            self.add(count_error(modality, token, places, given), "wrong_count", modality)


def read_chat(
    index: int, record: Any, processor: Any = None, media_root: Any = None, *, question: str | None = None
) -> Chat:
    """Reads a record of any kind; what is wrong is kept in the chat.

    Args:
        index: its place in the data, for errors.
        record: what `normalize` reads.
        processor: the model's. Without one, media are of any modality that is registered.
        media_root: folder that relative paths are in.
        question: makes a chat of a record that is none: what the user says behind the media in its columns.
    """
    chat = Chat(name_of(index, record))
    try:
        _read(chat, record, processor, media_root, question)
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        chat.fail(error)
    return chat


def _read(chat: Chat, record: Any, processor: Any, media_root: Any, question: str | None) -> None:
    if not isinstance(record, Mapping):
        raise ValueError(f"has no `messages`: it is a {type(record).__name__}.")
    if question is not None:
        columns = media_columns(record).items()
        places = [{"type": name} for name, column in columns for _ in items_of(name, record[column])]
        record = {**record, "messages": [{"role": "user", "content": [*places, {"type": "text", "text": question}]}]}
    if not ({"messages", "conversations", "__key__"} & record.keys()):
        raise ValueError(
            f"has no `messages` (its columns: {', '.join(map(str, record)) or 'none'}). Trainer removes columns that the "
            "model's forward does not name: set remove_unused_columns=False in TrainingArguments."
        )
    sample = normalize(record, media_root=media_root)
    (messages,), _ = read_chats(sample["messages"])
    columns = {name: list(sample[column]) for name, column in media_columns(sample).items()}
    modalities = MODALITIES if processor is None else processor.modalities
    own = media_of(messages, modalities)
    if lacking := [name for name in columns if name not in modalities]:
        raise UnknownModalityError(f"has media of {lacking[0]!r}, a modality that this model lacks.")
    chat.messages, chat.tools = [_filled(message, columns) for message in messages], sample.get("tools")
    chat.media = media_of(chat.messages, modalities)
    for name in modalities:
        if (left := columns.get(name)) and name in own:
            chat.add(f"has media of {name!r} both in its messages and in a column.", "wrong_count", name)
        elif left:
            chat.media[name] = [*chat.media.get(name, []), *left]
        chat.count(name, modalities[name].token, sum(part.get("type") == name for part in parts_of(messages)))


def _filled(message: dict[str, Any], columns: dict[str, list[Any]]) -> dict[str, Any]:
    """A message whose bare parts have got the next medium of their column."""
    if not isinstance(message.get("content"), list):
        return message
    parts = []
    for part in message["content"]:
        name = part.get("type") if isinstance(part, dict) else None
        if columns.get(name) and part_source(name, part) is None:
            part = {**part, name: columns[name].pop(0)}
        parts.append(part)
    return {**message, "content": parts}


def name_of(index: int, record: Any) -> str:
    """A sample's name in errors: its place, and its id where it has one."""
    known = record.get("id") if isinstance(record, Mapping) else None
    return f"Sample {index}" + (f" (id {known!r})" if isinstance(known, (str, int)) else "")


def located(where: str, error: Exception, prefix: str = "") -> MediaError:
    """An error about a medium with the sample's name, and what to do about a missing file; `prefix` is left out of it."""
    message = f"{where}: {str(error).removeprefix(prefix)}"
    return MediaError(f"{message} {MEDIA_ROOT}" if is_missing(error) and MEDIA_ROOT not in message else message)


def is_missing(error: BaseException | None) -> bool:
    """Whether an error comes of a file that does not exist."""
    return error is not None and (isinstance(error, FileNotFoundError) or is_missing(error.__cause__))
