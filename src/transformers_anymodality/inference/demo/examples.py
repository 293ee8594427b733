"""Example messages: from a file of chats, or made up by the modalities' specs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...modalities import MODALITIES


MAX_EXAMPLES = 12
_QUESTION = "What is this?"


@dataclass(frozen=True)
class Example:
    """A message to try: content parts of media, and words."""

    media: list[dict[str, Any]]
    text: str
    note: str = ""

    @property
    def label(self) -> str:
        senses = " + ".join(part["type"] for part in self.media)
        return " · ".join(filter(None, (senses + self.note, self.text)))


def senses(processor: Any) -> list[str]:
    """A model's modalities, in the order in which all are known."""
    return [name for name in MODALITIES if name in processor.modalities]


def made_up(processor: Any) -> list[Example]:
    """One example for each sense; its medium is a pattern, a tone, a wave."""
    examples = []
    for name in senses(processor):
        medium = MODALITIES[name].dummy(processor.sub_processor(name), processor.modalities[name].options, 1)
        examples.append(Example([{"type": name, name: medium}], _QUESTION, " (made up)"))
    return examples[:MAX_EXAMPLES]


def read_examples(file: Path, processor: Any) -> list[Example]:
    """What users ask first in chats of a JSONL file; relative paths are from its folder.

    Raises:
        ValueError: a line is no chat, or has media that the model lacks or that are no files.
    """
    examples = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        if len(examples) == MAX_EXAMPLES:
            break
        try:
            messages = json.loads(line)["messages"]
            asked = next(message["content"] for message in messages if message["role"] == "user")
            parts = [{"type": "text", "text": asked}] if isinstance(asked, str) else asked
            examples.append(_example(parts, file.parent, processor))
        except (KeyError, TypeError, StopIteration, json.JSONDecodeError) as error:
            raise ValueError(f"{file}, line {number}: expected a chat, {{'messages': [...]}} ({error!r}).") from error
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from error
    return examples


def _example(parts: list[dict[str, Any]], folder: Path, processor: Any) -> Example:
    media = []
    for part in parts:
        if part["type"] == "text":
            continue
        if part["type"] not in processor.modalities:
            raise ValueError(f"{part['type']}, but the model has {', '.join(senses(processor)) or 'no senses'}.")
        path = folder / Path(part["path"]).expanduser()
        if not path.is_file():
            raise ValueError(f"{path} does not exist.")
        media.append({"type": part["type"], "path": str(path.resolve())})
    words = " ".join(part["text"].strip() for part in parts if part["type"] == "text")
    return Example(media, words)
