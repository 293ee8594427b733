"""Reads every record of a file as training does, and reports what would fail."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from tqdm import tqdm

from ..utils.files import json_lines
from ..utils.processes import read_ahead
from .datasets import open_records
from .records import MEDIA_ROOT, Chat, encode_chats, is_missing, read_chat


# Kinds of problems, in the order of the report.
KINDS = {
    "broken_record": "not JSON, not a chat, or refused by the chat template",
    "unknown_modality": "media of a modality that this model does not have",
    "wrong_count": "media and placeholders differ in number",
    "missing_file": "a file that does not exist",
    "unreadable_media": "a medium that cannot be read or is refused",
    "no_answer": "no assistant text to train on",
    "too_long": "more tokens than max_length",
}


@dataclass(frozen=True)
class Problem:
    sample: int
    kind: str
    message: str
    modality: str | None = None
    id: str | int | None = None


@dataclass
class Report:
    """The result of `check`. `lengths`: tokens of each sample that could be counted, `(sample, tokens)`."""

    samples: int = 0
    media: int = 0
    problems: list[Problem] = field(default_factory=list)
    lengths: list[tuple[int, int]] = field(default_factory=list)

    def write(self, file: str | Path) -> None:
        """All problems, one JSON object per line."""
        Path(file).write_text(json_lines(map(asdict, self.problems)), encoding="utf-8")

    def __str__(self) -> str:
        if not self.samples:
            return "no samples."
        bad = len({problem.sample for problem in self.problems})
        lines = [
            f"{self.samples:,} samples with {self.media:,} media: {f'{bad:,} have' if bad else 'none have'} problems."
        ]
        lines += [f"  {'problem':<16}  {'samples':>7}"] if self.problems else []
        for kind, meaning in KINDS.items():
            if problems := [problem for problem in self.problems if problem.kind == kind]:
                samples = sorted({problem.sample for problem in problems})
                lines += [
                    f"  {kind:<16}  {len(samples):>7,}  {meaning}",
                    f"  {'':<16}  {'':>7}  {shorten(_places(samples) + _without_place(problems[0]), 300)}",
                ]
        if self.lengths:
            samples, tokens = zip(*self.lengths, strict=True)
            median, most = (int(q) for q in np.percentile(tokens, [50, 99]))
            longest = int(np.argmax(tokens))
            lines.append(
                f"  tokens per sample: median {median:,}, 99 % up to {most:,}, at most {tokens[longest]:,} "
                f"(sample {samples[longest]})."
            )
        return "\n".join(lines)


def _places(samples: list[int]) -> str:
    """The places of samples; what follows is about the first of them."""
    if len(samples) == 1:
        return f"sample {samples[0]}"
    return f"samples {', '.join(map(str, samples[:8]))}{', ...' * (len(samples) > 8)}; the first"


def _without_place(problem: Problem) -> str:
    """The message, to be read after the sample's place."""
    name = f"Sample {problem.sample}"
    return problem.message.removeprefix(name) if problem.message.startswith(name) else f": {problem.message}"


def check(
    source: str | Path | Sequence[Any],
    processor: Any,
    *,
    max_length: int | None = None,
    media_root: str | Path | None = None,
    workers: int = 0,
    progress: bool = False,
) -> Report:
    """Reads every record and every medium as the collator does.

    Args:
        source: a file (see `open_records`), or records.
        max_length: tokens per sample, media included.
        media_root: folder that relative paths are in.
        workers: processes that read; 0: only this one.
    """
    records = open_records(source) if isinstance(source, (str, Path)) else source
    report, checked = Report(), _Checked(records, processor, max_length, media_root)
    found = read_ahead(range(len(records)), checked, workers)
    for i, (problems, tokens, media) in enumerate(tqdm(found, disable=not progress, unit="sample")):
        report.samples += 1
        report.media += media
        report.problems += problems
        if tokens is not None:
            report.lengths.append((i, tokens))
    return report


class _Checked:
    """The problems of each record, its tokens (None if they cannot be counted), and its media."""

    def __init__(self, records: Sequence[Any], processor: Any, max_length: int | None, media_root: Any):
        self.records, self.processor, self.max_length, self.media_root = records, processor, max_length, media_root
        self.known: dict[tuple[str, str], tuple[str, str] | int] = {}

    def __call__(self, index: int) -> tuple[list[Problem], int | None, int]:
        try:
            record = self.records[index]
        except ValueError as error:
            return [Problem(index, "broken_record", str(error))], None, 0
        chat = read_chat(index, record, self.processor, self.media_root)
        (prompt,) = encode_chats([chat], self.processor)
        counts = {name: [self._tokens(chat, name, i) for i in range(len(media))] for name, media in chat.media.items()}
        tokens = None
        if prompt is not None and not any(problem.modality for problem in chat.problems):
            self.processor.prompt_tokenizer.place_media([prompt], counts)
            tokens = len(prompt)
            if self.max_length is not None and tokens > self.max_length:
                chat.add(f"has {tokens} tokens; max_length is {self.max_length}.", "too_long")
        known = record.get("id") if isinstance(record, Mapping) else None
        problems = [Problem(index, one.kind, str(one), one.modality, known) for one in chat.problems]
        return problems, tokens, sum(map(len, chat.media.values()))

    def _tokens(self, chat: Chat, modality: str, number: int) -> int:
        """Tokens that a medium needs; if it cannot be read, 0, and a problem is added. A path is read once."""
        source = chat.media[modality][number]
        key = (modality, str(source)) if isinstance(source, (str, Path)) and len(str(source)) < 4096 else None
        found = self.known.get(key) or self._read(modality, source)
        if key is not None:
            self.known[key] = found
        if isinstance(found, int):
            return found
        kind, message = found
        chat.add(f"{modality} {number}: {message}", kind, modality)
        return 0

    def _read(self, modality: str, source: Any) -> tuple[str, str] | int:
        try:
            _, counts = self.processor.process_media({modality: [source]})
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # decoders and processors may raise anything
            message = str(error).removeprefix(f"{modality} 0: ")
            return ("missing_file", f"{message} {MEDIA_ROOT}") if is_missing(error) else ("unreadable_media", message)
        return counts[modality][0]
