"""What collator, `check` and `show` have to know of a record: its chat, its media, and whether they fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..modalities import MODALITIES
from .records import media_columns, normalize


def name_of(index: int, record: Any) -> str:
    """A sample's name in errors: its place, and its id where it has one."""
    known = record.get("id") if isinstance(record, Mapping) else None
    return f"Sample {index}" + (f" (id {known!r})" if isinstance(known, (str, int)) else "")


def read_record(where: str, record: Any, media_root: Any = None) -> dict[str, Any]:
    """`normalize`, with errors that name the sample."""
    if not isinstance(record, Mapping) or not ({"messages", "conversations", "__key__"} & record.keys()):
        columns = ", ".join(map(str, record)) if isinstance(record, Mapping) else type(record).__name__
        raise ValueError(
            f"{where} has no `messages` (its columns: {columns or 'none'}). Trainer removes columns that the model's "
            "forward does not name: set remove_unused_columns=False in TrainingArguments."
        )
    try:
        return normalize(record, media_root=media_root)
    except ValueError as error:
        raise ValueError(f"{where} {error}" if str(error).startswith("has ") else f"{where}: {error}") from error


def collect_media(processor: Any, where: str, sample: Mapping[str, Any], messages: list[dict]) -> dict[str, list[Any]]:
    """Modality -> media of a normalised sample, in their order."""
    try:
        media = processor.media_of(messages)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    for name in media_columns(sample):
        column = sample[MODALITIES[name].argument]
        if name not in processor.modalities:
            raise ValueError(f"{where} has media of {name!r}, a modality that this model lacks.")
        if media.get(name):
            raise ValueError(f"{where} has media of {name!r} both in its messages and in a column.")
        media[name] = list(column)
    return media


def encode(processor: Any, where: str, messages: list[dict], tools: list | None) -> tuple[list[int], list[bool]]:
    """Token ids of a chat, and which of them the assistant said; errors (a template's, too) name the sample."""
    try:
        return processor.encode_chat(messages, tools=tools)
    except ImportError:
        raise
    except Exception as error:  # templates raise what they like
        raise ValueError(f"{where}: {error}") from error


def wrong_counts(
    processor: Any, where: str, ids: list[int], media: Mapping[str, list[Any]], messages: list[dict]
) -> Iterator[tuple[str, str]]:
    """For each modality whose placeholders and media differ in number: its name, and what to say of it."""
    for name, row in processor.modalities.items():
        expected, given = ids.count(getattr(processor, f"{name}_token_id")), len(media.get(name, []))
        if expected == given:
            continue
        fix = (
            f'Each content part of type "{name}" needs one medium, in the part or in the column '
            f"{MODALITIES[name].argument!r}."
        )
        if given > expected and _is_typed(MODALITIES[name].token, messages):
            fix += (
                f" A {MODALITIES[name].token} typed into `messages` is text: write parts, or convert the file by "
                "`anymodality data convert markers`."
            )
        yield name, f"{where} has {expected} {row['token']} placeholders, but {given} media of {name!r}. {fix}"


def _is_typed(token: str, messages: list[dict]) -> bool:
    contents = [message.get("content") for message in messages]
    parts = [part for content in contents for part in (content if isinstance(content, list) else [content])]
    return any(token in (part.get("text") or "" if isinstance(part, dict) else part or "") for part in parts)
