"""Looks at every record of a file as training would, and tells what would go wrong."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ..modalities import MODALITIES
from .files import open_records
from .samples import collect_media, encode, name_of, read_record, wrong_counts


# Kinds of problems, in the order of the report.
KINDS = {
    "broken_record": "no JSON, no chat, or one that the chat template refuses",
    "unknown_modality": "media that this model has no sense for",
    "wrong_count": "media and placeholders differ in number",
    "missing_file": "a file that does not exist",
    "unreadable_media": "a medium that cannot be read or is refused",
    "no_answer": "no words of the assistant to learn from",
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
    """What `check` found. `lengths`: tokens of each sample that could be counted, `(sample, tokens)`."""

    samples: int = 0
    media: int = 0
    problems: list[Problem] = field(default_factory=list)
    lengths: list[tuple[int, int]] = field(default_factory=list)

    def write(self, file: str | Path) -> None:
        """All problems, one JSON object per line."""
        lines = [json.dumps(asdict(problem), ensure_ascii=False) + "\n" for problem in self.problems]
        Path(file).write_text("".join(lines), encoding="utf-8")

    def __str__(self) -> str:
        bad = len({problem.sample for problem in self.problems})
        lines = [
            f"{self.samples:,} samples with {self.media:,} media: {f'{bad:,} have' if bad else 'none has'} problems."
        ]
        kinds = defaultdict(list)
        for problem in self.problems:
            kinds[problem.kind].append(problem)
        lines += [f"  {'problem':<16}  {'samples':>7}"] if kinds else []
        for kind in [kind for kind in KINDS if kind in kinds]:
            samples = sorted({problem.sample for problem in kinds[kind]})
            shown = ", ".join(map(str, samples[:8])) + (", ..." if samples[8:] else "")
            lines += [
                f"  {kind:<16}  {len(samples):>7,}  {KINDS[kind]}",
                f"  {'':<16}  {'':>7}  in samples {shown}; the first: {shorten(kinds[kind][0].message, 300)}",
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
        source: a file (as `open_records` takes it), or records.
        processor: the model's.
        max_length: tokens per sample, media included.
        media_root: folder that relative paths are in.
        workers: processes that read; 0 for this one alone.
        progress: show a bar.
    """
    records = open_records(source) if isinstance(source, (str, Path)) else source
    checked = _Checked(records, processor, max_length, media_root)
    loader = torch.utils.data.DataLoader(checked, batch_size=None, num_workers=workers, collate_fn=_same)
    report = Report()
    for i, (problems, tokens, media) in enumerate(
        tqdm(loader, total=len(checked), disable=not progress, unit="sample")
    ):
        report.samples += 1
        report.media += media
        report.problems += problems
        if tokens is not None:
            report.lengths.append((i, tokens))
    return report


def _same(value: Any) -> Any:
    return value


class _Checked(torch.utils.data.Dataset):
    """What there is to say of each record: its problems, its tokens (None if they cannot be counted), its media."""

    def __init__(self, records: Sequence[Any], processor: Any, max_length: int | None, media_root: Any):
        self.records, self.processor, self.max_length, self.media_root = records, processor, max_length, media_root
        self.known: dict[tuple[str, str], tuple[str, str] | int] = {}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[list[Problem], int | None, int]:
        self.problems: list[Problem] = []
        self.index, self.id = index, None
        try:
            record = self.records[index]
            self.id = record.get("id") if isinstance(record, Mapping) else None
            where = name_of(index, record)
            sample = read_record(where, record, self.media_root)
            (messages,), _ = self.processor._normalize_conversations(sample["messages"])
        except ImportError:
            raise
        except Exception as error:
            self._add("broken_record", str(error))
            return self.problems, None, 0
        return self._look(where, sample, messages)

    def _look(self, where: str, sample: dict[str, Any], messages: list[dict]) -> tuple[list[Problem], int | None, int]:
        media: dict[str, list[Any]] = {}
        try:
            media = collect_media(self.processor, where, sample, messages)
            ids, said = encode(self.processor, where, messages, sample.get("tools"))
        except ValueError as error:
            self._add("unknown_modality" if _is_lack(str(error)) else "broken_record", str(error))
            return self.problems, None, sum(map(len, media.values()))
        counts = {name: [self._tokens(name, i, source) for i, source in enumerate(media[name])] for name in media}
        for name, message in wrong_counts(self.processor, where, ids, media, messages):
            self._add("wrong_count", message, name)
        if not any(said):
            self._add("no_answer", f"{where} has no words of the assistant to learn from.")
        tokens = None
        if not any(problem.modality for problem in self.problems):
            repeats = self.processor.placeholder_repeats(
                [ids], {name: found for name, found in counts.items() if found}
            )
            tokens = int(repeats[0].sum())
            if self.max_length is not None and tokens > self.max_length:
                self._add("too_long", f"{where} has {tokens} tokens; max_length is {self.max_length}.")
        return self.problems, tokens, sum(map(len, media.values()))

    def _tokens(self, modality: str, number: int, source: Any) -> int:
        """Tokens that a medium needs; 0, and a problem, for one that cannot be read. A path is read once."""
        key = (modality, str(source)) if isinstance(source, (str, Path)) and len(str(source)) < 4096 else None
        found = self.known.get(key) if key is not None else None
        if found is None:
            found = self._read(modality, source)
            if key is not None:
                self.known[key] = found
        if isinstance(found, int):
            return found
        kind, message = found
        self._add(kind, f"{modality} {number}: {message}", modality)
        return 0

    def _read(self, modality: str, source: Any) -> tuple[str, str] | int:
        is_text = MODALITIES[modality].medium == "text"
        if missing := next(_missing(source, is_text), None):
            hint = "" if self.media_root else "; relative paths are looked for in the media root (--media-root)"
            return "missing_file", f"{missing!r} does not exist{hint}."
        try:
            _, counts = self.processor.process_media({modality: [source]})
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # decoders and processors raise what they like
            return "unreadable_media", str(error).removeprefix(f"{modality} 0: ")
        return counts[modality][0]

    def _add(self, kind: str, message: str, modality: str | None = None) -> None:
        self.problems.append(Problem(self.index, kind, message, modality, self.id))


def _is_lack(message: str) -> bool:
    return "a modality that this model lacks" in message or "but this model takes" in message


def _missing(source: Any, is_text: bool = False) -> Iterator[str]:
    """Local paths in a source that do not exist."""
    if isinstance(source, Path) or (isinstance(source, str) and not is_text):
        text = str(source)
        if not (text[:5].lower() == "data:" or "://" in text) and len(text) < 4096:
            path = Path(text).expanduser()
            if not path.exists():
                yield text
    elif isinstance(source, Mapping) and source.get("bytes") is None:
        for key in ("path", "frames"):
            if source.get(key) is not None:
                yield from _missing(source[key])
    elif isinstance(source, (list, tuple)):
        for one in source:
            yield from _missing(one, is_text) if isinstance(one, (str, Path, Mapping)) else ()
