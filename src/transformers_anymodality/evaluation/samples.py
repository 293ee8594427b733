"""Records of a data set as samples of a task: what the model is asked, and what would be right."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..data.records import RecordError, name_of, read_chat
from ..processing.chat import text_of
from .tasks import Task


@dataclass(frozen=True)
class Sample:
    """`messages` end with the user's turn and have the media in their parts; `where` names the sample in errors."""

    index: int
    where: str
    id: str | int
    messages: list[dict[str, Any]]
    references: list[str]
    choices: list[str]
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """The last turn's words."""
        return text_of(self.messages[-1])


def read_sample(
    task: Task,
    index: int,
    record: Any,
    *,
    media_root: Any = None,
    prompt: str | None = None,
    labels: Sequence[str] = (),
) -> Sample:
    """
    Args:
        record: a chat (`messages`, `conversations`; what the assistant says last is the reference unless a column has
            some), or flat: media in columns (`image`, `images`, `audio`, ...), a question, references, choices.
        prompt: instead of the task's.
        labels: choices of records that have none.

    Raises:
        ValueError: the sample's name, and what it lacks.
    """
    where = name_of(index, record)
    if not isinstance(record, Mapping):
        raise ValueError(f"{where} is no object, but {type(record).__name__}.")
    try:
        choices = _choices(task, record, labels)
        is_chat = any(record.get(name) is not None for name in ("messages", "conversations", "__key__"))
        asked = None if is_chat else _prompt(task.prompt if prompt is None else prompt, task, record, choices)
        messages, answer = read_chat(index, record, media_root=media_root, question=asked).checked().messages, None
        if messages[-1].get("role") == "assistant":
            *messages, last = messages
            answer = text_of(last).strip()
        if not messages:
            raise ValueError("has an answer, but nobody asked: its only message is the assistant's.")
        references = _references(task, record, answer)
        if choices:
            references = [_choice(one, choices) for one in references]
    except RecordError:
        raise
    except ValueError as error:
        raise ValueError(f"{where} {error}") from None
    known = next((record[key] for key in ("id", "question_id", "__key__") if record.get(key) is not None), index)
    kept = {name: record[name] for name in task.keeps if record.get(name) is not None}
    return Sample(index, where, known, messages, references, choices, kept)


# --- what is asked, and what would be right: errors go on from the sample's name ---------------------------------------


def _prompt(text: str, task: Task, record: Mapping[str, Any], choices: list[str]) -> str:
    if "{question}" in text:
        question = record.get(_column(record, task.questions))
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"has no question in {_or(task.questions)}; {_columns(record)}.")
        text = text.replace("{question}", question.strip())
    lines = (f"{letter}. {choice}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False))
    return text.replace("{choices}", "\n".join(lines))


def _references(task: Task, record: Mapping[str, Any], answer: str | None) -> list[str]:
    column = _column(record, task.references)
    if column is None and (answer or not task.needs_references):
        return [answer] if answer else []
    if column is None:
        raise ValueError(f"has no references in {_or(task.references)}; {_columns(record)}.")
    given = record[column] if isinstance(record[column], (list, tuple)) else [record[column]]
    texts = [_reference(one.get("answer") if isinstance(one, Mapping) else one) for one in given]
    if task.needs_references and not (texts and all(texts)):
        raise ValueError(f"has an empty reference in {column!r}: {record[column]!r:.80}.")
    return texts


def _reference(value: Any) -> str:
    if isinstance(value, bool):
        return "Yes" if value else "No"
    return str(value).strip() if isinstance(value, (str, int, float)) else ""


def _choices(task: Task, record: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    if task.choices is not None:
        return list(task.choices)
    given = next((record[key] for key in ("choices", "options") if record.get(key) is not None), list(labels))
    given = list(given.values()) if isinstance(given, Mapping) else given
    if not isinstance(given, (list, tuple)) or not all(isinstance(one, str) and one.strip() for one in given):
        raise ValueError(f"has choices that are no list of strings, but {given!r:.80}.")
    if task.needs_choices and len(given) < 2:
        raise ValueError(f"has no choices in 'choices' or 'options'; {_columns(record)}.")
    if task.needs_choices and len(given) > len(string.ascii_uppercase):
        raise ValueError(f"has {len(given)} choices, more than there are letters.")
    return [one.strip() for one in given]


def _choice(reference: str, choices: list[str]) -> str:
    """The choice that a reference means: its words, its letter, or its place from 0."""
    meanings = {str(place): choice for place, choice in enumerate(choices)}
    meanings |= dict(zip(string.ascii_lowercase, choices, strict=False))
    meanings |= {choice.lower(): choice for choice in choices}
    if choices == ["Yes", "No"]:
        meanings |= {"1": "Yes", "0": "No", "true": "Yes", "false": "No"}
    if reference in choices:
        return reference
    if reference.lower() not in meanings:
        raise ValueError(f"has the reference {reference!r}, which is none of its choices: {', '.join(choices)}.")
    return meanings[reference.lower()]


def _column(record: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of the columns that is there."""
    return next((name for name in names if record.get(name) is not None), None)


def _or(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]


def _columns(record: Mapping[str, Any]) -> str:
    return f"its columns are {', '.join(map(str, record)) or 'none'}"
