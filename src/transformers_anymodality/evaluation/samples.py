"""Records of a data set as samples of a task: what the model is asked, and what would be right."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..data.reading import Chat, name_of, read_chat, words_of
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
        return words_of(self.messages[-1])


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
    choices = _choices(task, where, record, labels)
    is_chat = any(record.get(name) is not None for name in ("messages", "conversations", "__key__"))
    question = None if is_chat else _prompt(task.prompt if prompt is None else prompt, task, where, record, choices)
    messages, answer = _answered(read_chat(index, record, media_root=media_root, question=question).checked())
    references = _references(task, where, record, answer)
    if choices and references:
        references = [_choice(where, one, choices) for one in references]
    known = next((record[key] for key in ("id", "question_id", "__key__") if record.get(key) is not None), index)
    kept = {name: record[name] for name in task.keeps if record.get(name) is not None}
    return Sample(index, where, known, messages, references, choices, kept)


# --- what is asked -----------------------------------------------------------------------------------------------------


def _prompt(text: str, task: Task, where: str, record: Mapping[str, Any], choices: list[str]) -> str:
    if "{question}" in text:
        column = _column(record, task.questions)
        if column is None or not isinstance(record[column], str) or not record[column].strip():
            raise ValueError(f"{where} has no question in {_or(task.questions)}; {_columns(record)}.")
        text = text.replace("{question}", record[column].strip())
    lines = (f"{letter}. {choice}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False))
    return text.replace("{choices}", "\n".join(lines))


def _answered(chat: Chat) -> tuple[list[dict[str, Any]], str | None]:
    """Messages up to the user's last turn, and what the assistant said then."""
    *before, last = chat.messages
    if last.get("role") != "assistant":
        return chat.messages, None
    if not before:
        raise ValueError(f"{chat.where} has an answer, but nobody asked: its only message is the assistant's.")
    return before, words_of(last).strip()


# --- what would be right -----------------------------------------------------------------------------------------------


def _references(task: Task, where: str, record: Mapping[str, Any], answer: str | None) -> list[str]:
    column = _column(record, task.references)
    if column is None and answer:
        return [answer]
    if column is None and not task.needs_references:
        return []
    if column is None:
        raise ValueError(f"{where} has no references in {_or(task.references)}; {_columns(record)}.")
    given = record[column] if isinstance(record[column], (list, tuple)) else [record[column]]
    given = [one.get("answer") if isinstance(one, Mapping) else one for one in given]
    if any(isinstance(one, bool) or not isinstance(one, (str, int, float)) for one in given):
        given = [_truth(one) for one in given]
    texts = [str(one).strip() for one in given]
    if task.needs_references and (not texts or not all(texts)):
        raise ValueError(f"{where} has an empty reference in {column!r}: {record[column]!r:.80}.")
    return texts


def _truth(value: Any) -> str:
    return {True: "Yes", False: "No"}[value] if isinstance(value, bool) else ""


def _choices(task: Task, where: str, record: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    if task.choices is not None:
        return list(task.choices)
    given = next((record[key] for key in ("choices", "options") if record.get(key) is not None), list(labels))
    given = list(given.values()) if isinstance(given, Mapping) else given
    if not isinstance(given, (list, tuple)) or not all(isinstance(one, str) and one.strip() for one in given):
        raise ValueError(f"{where} has choices that are no list of strings, but {given!r:.80}.")
    if task.needs_choices and len(given) < 2:
        raise ValueError(f"{where} has no choices in 'choices' or 'options'; {_columns(record)}.")
    if len(given) > len(string.ascii_uppercase) and task.needs_choices:
        raise ValueError(f"{where} has {len(given)} choices, more than there are letters.")
    return [one.strip() for one in given]


def _choice(where: str, reference: str, choices: list[str]) -> str:
    """The choice that a reference means: its words, its letter, or its place from 0."""
    if reference in choices:
        return reference
    near = {choice.lower(): choice for choice in choices}
    near |= {
        letter: choice for letter, choice in zip(string.ascii_lowercase, choices, strict=False) if letter not in near
    }
    near |= {str(place): choice for place, choice in enumerate(choices) if str(place) not in near}
    if choices == ["Yes", "No"]:
        near |= {"1": "Yes", "0": "No", "true": "Yes", "false": "No"}
    if reference.lower() not in near:
        raise ValueError(
            f"{where} has the reference {reference!r}, which is none of its choices: {', '.join(choices)}."
        )
    return near[reference.lower()]


def _column(record: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if record.get(name) is not None), None)


def _or(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]


def _columns(record: Mapping[str, Any]) -> str:
    return f"its columns are {', '.join(map(str, record)) or 'none'}"
