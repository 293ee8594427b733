"""Example messages, from a file of chats."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ...data.datasets import open_records
from ...data.records import Chat, read_chat
from ...modalities import MODALITIES
from ...modalities._source import describe
from ...processing.chat import part_source, parts_of, text_of


MAX_EXAMPLES = 12


@dataclass(frozen=True)
class Example:
    """A message to try: content parts of media, and text."""

    media: list[dict[str, Any]]
    text: str

    @property
    def label(self) -> str:
        modalities = " + ".join(part["type"] for part in self.media)
        return " · ".join(filter(None, (modalities, self.text)))


def modalities(processor: Any) -> list[str]:
    """A model's modalities, in the order of the registry."""
    return [name for name in MODALITIES if name in processor.modalities]


def read_examples(file: Path, processor: Any) -> list[Example]:
    """The first user message of each of the first chats in a file; paths are relative to its folder.

    Raises:
        ValueError: a record is not a chat, or has media of other modalities, or media that are not files.
    """
    examples = []
    for chat in islice(read_chats(file, processor), MAX_EXAMPLES):
        asked = next((message for message in chat.messages if message["role"] == "user"), {})
        parts = list(parts_of([asked]))
        media = [{"type": part["type"], "path": str(path)} for part in parts if (path := file_of(part, chat.where))]
        examples.append(Example(media, text_of(asked).strip()))
    return examples


def read_chats(file: Path, processor: Any = None) -> Iterator[Chat]:
    """The chats of a file; paths are relative to its folder."""
    records = open_records(file)
    for i in range(len(records)):
        yield read_chat(i, records[i], processor, file.parent).checked()


def file_of(part: Mapping[str, Any], where: str) -> Path | None:
    """The file of a medium; None for text. Raises ValueError for another medium, or a missing file."""
    if part.get("type", "text") not in MODALITIES:
        return None
    source = part_source(part["type"], part)
    path = Path(source).expanduser() if isinstance(source, (str, Path)) else None
    if path is None or not path.is_file():
        raise ValueError(f"{where}: {describe(source)} does not exist, or is not a file.")
    return path.resolve()
