"""A task on some data: its records as samples, each with a question and the right answers."""

import hashlib
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..data.datasets import open_records
from ..data.records import RecordError, name_of, read_chat
from ..processing.chat import text_of
from .tasks import TASKS, Task


@dataclass(frozen=True)
class Sample:
    """`messages` end with the user's turn and hold the media in their parts; `where` names the sample in errors."""

    index: int
    where: str
    id: str | int
    messages: list[dict[str, Any]]
    references: list[str]
    choices: list[str]
    kept: dict[str, Any]

    @property
    def question(self) -> str:
        """The last turn's words."""
        return text_of(self.messages[-1])


@dataclass
class Job:
    """
    Args:
        kind: a registered task.
        data: file, Hub id, or the records themselves. A record is a chat (`messages`, `conversations`; the assistant's last
            message is the reference unless a column has references), or flat: media in columns (`image`, `images`,
            `audio`, ...), a question, references, choices.
        name: name in the results; the task's by default.
        prompt: replaces the task's prompt.
        labels: choices for records that have none.
        media_root: folder that relative paths are in.
        limit: use only so many samples, from the first on.
        split: split of a Hub data set.
    """

    kind: str
    data: Any
    name: str = ""
    prompt: str | None = None
    labels: Sequence[str] = ()
    media_root: str | Path | None = None
    limit: int | None = None
    split: str = "test"

    def __post_init__(self):
        TASKS[self.kind]  # raises if it is not registered
        self.name = self.name or self.kind
        if not re.fullmatch(r"[\w-]+", self.name):
            raise ValueError(f"The task name {self.name!r} may only have letters, digits, - and _.")

    @property
    def task(self) -> Task:
        return TASKS[self.kind]

    @cached_property
    def records(self) -> Sequence[Any]:
        """The data's records, each read when needed. Raises ValueError if there are none."""
        is_file = isinstance(self.data, (str, Path))
        records = open_records(self.data, split=self.split) if is_file else self.data
        if self.task.expand is not None:
            records = self.task.expand(records)
        if not len(records):
            raise ValueError(f"{self.name}: {self.data} holds no samples.")
        return records

    @property
    def count(self) -> int:
        return len(self.records) if self.limit is None else min(self.limit, len(self.records))

    def fingerprint(self) -> str:
        """A fingerprint of the data: the hash of a file, or a description."""
        if not isinstance(self.data, (str, Path)):
            return f"{len(self.data)} records"
        if not Path(self.data).is_file():
            return str(self.data)
        with open(self.data, "rb") as file:
            return f"{Path(self.data).name} sha256:{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"

    def sample(self, index: int) -> Sample:
        """
        Raises:
            ValueError: the sample is incomplete; the message has its name and what is missing.
        """
        record = self.records[index]
        where = name_of(index, record)
        if not isinstance(record, Mapping):
            raise ValueError(f"{where} is not an object, but {type(record).__name__}.")
        try:
            return self._read(index, where, record)
        except RecordError:  # it names the sample
            raise
        except ValueError as error:
            raise ValueError(f"{where} {error}") from None

    # --- questions and right answers: error messages continue the sample's name --------------------------------------

    def _read(self, index: int, where: str, record: Mapping[str, Any]) -> Sample:
        choices = self._choices(record)
        is_chat = any(record.get(name) is not None for name in ("messages", "conversations", "__key__"))
        asked = None if is_chat else self._prompt(record, choices)
        messages, answer = read_chat(index, record, media_root=self.media_root, question=asked).checked().messages, ""
        if messages[-1].get("role") == "assistant":
            *messages, last = messages
            answer = text_of(last).strip()
        if not messages:
            raise ValueError("has no question: its only message is the assistant's.")
        references = self._references(record, answer)
        if choices:
            references = [_choice(one, choices) for one in references]
        known = next((record[key] for key in ("id", "question_id", "__key__") if record.get(key) is not None), index)
        kept = {name: record[name] for name in self.task.keeps if record.get(name) is not None}
        return Sample(index, where, known, messages, references, choices, kept)

    def _prompt(self, record: Mapping[str, Any], choices: list[str]) -> str:
        text = self.task.prompt if self.prompt is None else self.prompt
        if "{question}" in text:
            question = record.get(_column(record, self.task.questions))
            if not isinstance(question, str) or not question.strip():
                raise ValueError(f"has no question in {_or(self.task.questions)}; {_columns(record)}.")
            text = text.replace("{question}", question.strip())
        lines = (f"{letter}. {choice}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False))
        return text.replace("{choices}", "\n".join(lines))

    def _references(self, record: Mapping[str, Any], answer: str) -> list[str]:
        column = _column(record, self.task.references)
        if column is None:
            if self.task.needs_references and not answer:
                raise ValueError(f"has no references in {_or(self.task.references)}; {_columns(record)}.")
            return [answer] if answer else []
        given = record[column] if isinstance(record[column], (list, tuple)) else [record[column]]
        texts = [_reference(one.get("answer") if isinstance(one, Mapping) else one) for one in given]
        if self.task.needs_references and not (texts and all(texts)):
            raise ValueError(f"has an empty reference in {column!r}: {record[column]!r:.80}.")
        return texts

    def _choices(self, record: Mapping[str, Any]) -> list[str]:
        if self.task.choices is not None:
            return list(self.task.choices)
        given = record.get(_column(record, ("choices", "options")), self.labels)
        given = list(given.values()) if isinstance(given, Mapping) else given
        if not isinstance(given, (list, tuple)) or not all(isinstance(one, str) and one.strip() for one in given):
            raise ValueError(f"has choices that are not a list of strings, but {given!r:.80}.")
        if self.task.needs_choices and len(given) < 2:
            raise ValueError(f"has no choices in 'choices' or 'options'; {_columns(record)}.")
        if self.task.needs_choices and len(given) > len(string.ascii_uppercase):
            raise ValueError(f"has {len(given)} choices, but there are only 26 letters for them.")
        return [one.strip() for one in given]


def _reference(value: Any) -> str:
    if isinstance(value, bool):
        return "Yes" if value else "No"
    return str(value).strip() if isinstance(value, (str, int, float)) else ""


def _choice(reference: str, choices: list[str]) -> str:
    """The choice that a reference names by its words, its letter, or its index from 0."""
    meanings = {str(place): choice for place, choice in enumerate(choices)}
    meanings |= dict(zip(string.ascii_lowercase, choices, strict=False))
    meanings |= {choice.lower(): choice for choice in choices}
    if choices == ["Yes", "No"]:
        meanings |= {"1": "Yes", "0": "No", "true": "Yes", "false": "No"}
    if reference in choices:
        return reference
    if reference.lower() not in meanings:
        raise ValueError(f"has the reference {reference!r}, which is not one of its choices: {', '.join(choices)}.")
    return meanings[reference.lower()]


def _column(record: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of the columns that exists."""
    return next((name for name in names if record.get(name) is not None), None)


def _or(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]


def _columns(record: Mapping[str, Any]) -> str:
    return f"its columns are {', '.join(map(str, record)) or 'none'}"
