"""Other projects' formats: each is a function from one record to our chats. A system's own format is in its folder."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..modalities import MODALITIES
from ..utils.files import json_lines, written_whole
from ..utils.registry import LazyRegistry
from .datasets import open_records
from .records import media_columns, normalize


Converter = Callable[[Mapping[str, Any], int, Path | None], Iterable[dict[str, Any]]]


@dataclass(frozen=True)
class Format:
    """`convert(record, index, media_root)` gives chats; `example` is a record in this format."""

    convert: Converter
    help: str
    example: Mapping[str, Any]


FORMATS: LazyRegistry[Format] = LazyRegistry("format")


def register_format(name: str, *, help: str, example: Mapping[str, Any]) -> Callable[[Converter], Converter]:
    """Function decorator: registers a format for `anymodality data convert`.

    The function gets a record, its index in the file, and the media root. It yields any number of records, each with
    `messages` (contents are lists of parts) and media columns named by their arguments. The media root only shows which
    files exist; do not add it to paths.
    """

    def register(convert: Converter) -> Converter:
        FORMATS.register(name, Format(convert, help, example))
        return convert

    return register


def convert_records(
    name: str, records: Iterable[Any], *, media_root: str | Path | None = None
) -> Iterator[dict[str, Any]]:
    """Chats from records of a format; relative paths are joined to `media_root`.

    Raises:
        ValueError: a record, named by its place, does not have this format.
    """
    this, root = FORMATS[name], None if media_root is None else Path(media_root)
    for i, record in enumerate(records):
        try:
            if not isinstance(record, Mapping):
                raise TypeError(f"is not an object, but {type(record).__name__}")
            for chat in this.convert(record, i, root):
                yield normalize(chat, media_root=root, markers=False)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            wrong = f"has no {error}" if isinstance(error, KeyError) else f"is not of {name}: {error}"
            example = json.dumps(this.example, ensure_ascii=False)
            raise ValueError(f"Record {i} {wrong}; {name} has records like {example}") from error


def convert_file(
    name: str, source: str | Path, output: str | Path, *, media_root: str | Path | None = None, progress: bool = False
) -> int:
    """Writes the chats of a file of that format as JSONL, and returns their number; nothing is written if a record is
    wrong."""
    output = Path(output)
    if output.exists():
        raise FileExistsError(f"{output} exists already: choose another name, or remove it.")
    records, count = open_records(source), 0
    output.parent.mkdir(parents=True, exist_ok=True)
    bar = tqdm(records, disable=not progress, unit="rec")
    with written_whole(output) as part, part.open("w", encoding="utf-8") as file:
        for chat in convert_records(name, bar, media_root=media_root):
            file.write(json_lines([chat]))
            count += 1
    return count


def missing_files(chats: str | Path) -> tuple[int, list[str]]:
    """The number of different files that the chats of a JSONL file name in their columns of media, and those of them that
    do not exist."""
    found: dict[str, bool] = {}
    for record in open_records(chats):
        for name, column in media_columns(record).items():
            for one in record[column] if MODALITIES[name].medium != "text" else ():
                path = one.get("path") if isinstance(one, Mapping) else one
                if isinstance(path, str) and "://" not in path and not path.startswith("data:") and path not in found:
                    found[path] = Path(path).expanduser().exists()
    return len(found), [path for path, exists in found.items() if not exists]


# --- pieces of chats ---------------------------------------------------------------------------------------------------


def chat(*turns: tuple[str, list[dict[str, str]] | str], **columns: Any) -> dict[str, Any]:
    """A record from `(role, text or parts)`; columns that are None or empty are left out."""
    messages = [{"role": role, "content": words(said) if isinstance(said, str) else said} for role, said in turns]
    return {"messages": messages, **{name: value for name, value in columns.items() if value not in (None, [], "")}}


def words(text: str) -> list[dict[str, str]]:
    if not isinstance(text, str):
        raise TypeError(f"{text!r:.80} is not a string")
    return [{"type": "text", "text": text}]


def listed(value: Any) -> list[Any]:
    """Media of a field: one, several, or none (left out, null, "", "None")."""
    values = value if isinstance(value, list) else [value]
    return [one for one in values if one not in (None, "", "None")]


def places(**media: list[Any]) -> list[dict[str, str]]:
    """A bare part for each medium."""
    return [{"type": name} for name, items in media.items() for _ in items]


# --- formats of several systems ------------------------------------------------------------------------------------------


@register_format(
    "llava",
    help="LLaVA's and ShareGPT's: conversations with <image> (or <video>, <audio>, ...) in place of media",
    example={
        "id": "1",
        "image": "coco/1.jpg",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat colour is the bus?"},
            {"from": "gpt", "value": "It is red."},
            {"from": "human", "value": "How many people are in it?"},
            {"from": "gpt", "value": "Two."},
        ],
    },
)
def from_llava(record: Mapping[str, Any], index: int, media_root: Path | None) -> Iterator[dict[str, Any]]:
    """Markers stay where they are. (LLaVA's own code moves them to the start of their turn.) As in that code, a record
    without media is plain text, including `<image>`."""
    if "conversations" not in record:
        raise KeyError("conversations")
    yield normalize(record, markers=bool(media_columns(record)))


@register_format(
    "markers",
    help="LLaMA-Factory's and ms-swift's: messages with <image> in their strings, columns images, videos, audios",
    example={
        "messages": [
            {"role": "user", "content": "<image><audio>Who speaks here?"},
            {"role": "assistant", "content": "The man on the left."},
        ],
        "images": ["frames/7.png"],
        "audios": ["sound/7.wav"],
    },
)
def from_markers(record: Mapping[str, Any], index: int, media_root: Path | None) -> Iterator[dict[str, Any]]:
    if not ({"messages", "conversations"} & record.keys()):
        raise KeyError("messages")
    yield normalize(record, markers=True)
