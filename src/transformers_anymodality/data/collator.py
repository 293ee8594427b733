"""From raw chat samples to a training batch, for the stock Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers.utils import logging

from ..media import MediaError
from ..processing.processor import AnyModalityProcessor
from .reading import located, name_of, read_chat


logger = logging.get_logger(__name__)

# No fault of a sample, so never skipped: a decoder that is not installed, a machine that is too small.
_NOT_ITS_FAULT = (ImportError, MemoryError)


class _Count:
    """A number that the processes of a data loader add to, one slot for each, in memory that they share."""

    def __init__(self):
        self.slots = torch.zeros(256, dtype=torch.int64).share_memory_()

    def add(self, number: int) -> None:
        worker = torch.utils.data.get_worker_info()
        self.slots[0 if worker is None else 1 + worker.id % 255] += number

    def __int__(self) -> int:
        return int(self.slots.sum())


class Features(Protocol):
    """What takes the processor's place for media whose features were computed before: a `FeatureStore`."""

    def inputs(
        self, processor: AnyModalityProcessor, media: Mapping[str, list[Any]]
    ) -> tuple[dict[str, torch.Tensor], dict[str, list[int]]]:
        """As the processor's `process_media`: model inputs, and how many tokens each item has."""
        ...


@dataclass
class AnyModalityDataCollator:
    """Reads media, tokenises, labels what the assistant said, pads on the right.

    A sample is a mapping with `messages`; media stand in the messages' parts, or in columns by their argument names
    (`images`, `audio`, `imu`, ...) in the order of the bare parts (`{"type": "image"}`) that they belong to. Or it is
    what else `data.normalize` reads: `conversations` with markers, a sample of a WebDataset shard.

    Args:
        max_length: tokens per sample, media included; None for no limit.
        on_overlong: for a longer sample: "error"; "drop" it (counted in `dropped`); "truncate_text" takes text from
            its end, never from a medium.
        pad_to_multiple_of: pads further, to a multiple of this.
        on_error: for a sample that cannot be used (a missing or broken file, media and placeholders that differ in
            number, no words of the assistant): "error", or "skip" it (counted in `skipped`, a warning tells the first).
            A batch of such samples alone is replaced by the last sample that could be used.
        media_root: folder that relative paths are in.
        features: of frozen towers, computed before; their media are not read.
    """

    processor: AnyModalityProcessor
    max_length: int | None = None
    on_overlong: str = "error"
    pad_to_multiple_of: int | None = None
    on_error: str = "error"
    media_root: str | Path | None = None
    features: Features | None = None

    def __post_init__(self):
        if self.on_error not in ("error", "skip"):
            raise ValueError(f'on_error must be "error" or "skip", not {self.on_error!r}.')
        if self.on_overlong not in ("error", "drop", "truncate_text"):
            raise ValueError(f'on_overlong must be "error", "drop" or "truncate_text", not {self.on_overlong!r}.')
        self._dropped, self._skipped = _Count(), _Count()
        self._last_good: Mapping[str, Any] | None = None

    @property
    def dropped(self) -> int:
        """Samples longer than `max_length` that were left out so far, in all processes of the data loader."""
        return int(self._dropped)

    @property
    def skipped(self) -> int:
        """Samples that could not be used and were left out so far, in all processes of the data loader."""
        return int(self._skipped)

    def __call__(self, samples: list[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Returns `input_ids`, `attention_mask`, `labels` `(batch, sequence)` int64 and the media's model inputs."""
        try:
            rows, inputs = self._prepare(samples)
        except _NOT_ITS_FAULT:
            raise
        except Exception as error:
            if self.on_error == "skip":
                return self(self._usable(samples, error))
            if isinstance(error, MediaError):
                raise self._located(samples, error) from error
            raise
        if self.on_error == "skip":
            good = (sample for sample, row in zip(samples, rows, strict=True) if row is not None)
            self._last_good = next(good, self._last_good)
        if any(row is None for row in rows):
            kept = [sample for sample, row in zip(samples, rows, strict=True) if row is not None]
            if not kept:
                raise ValueError(f"Every sample of the batch is longer than max_length={self.max_length}.")
            self._dropped.add(len(samples) - len(kept))
            logger.warning_once("Samples longer than max_length are dropped; `collator.dropped` counts them.")
            return self(kept)
        return self._batch([row for row in rows if row is not None], inputs)

    def _prepare(
        self, samples: list[Mapping[str, Any]], first: int = 0
    ) -> tuple[list[dict[str, np.ndarray] | None], dict[str, torch.Tensor]]:
        """Rows of ids and labels, None for samples to be dropped, and the media's model inputs."""
        chats = [self._chat(first + i, sample) for i, sample in enumerate(samples)]
        media = {
            name: [item for _, _, found in chats for item in found.get(name, [])] for name in self.processor.modalities
        }
        if self.features is None:
            inputs, token_counts = self.processor.process_media(media)
        else:
            inputs, token_counts = self.features.inputs(self.processor, media)
        repeats = self.processor.placeholder_repeats([ids for ids, _, _ in chats], token_counts)
        rows = []
        for i, ((ids, said, _), counts) in enumerate(zip(chats, repeats, strict=True)):
            rows.append(self._row(first + i, np.asarray(ids), np.asarray(said), counts))
        return rows, inputs

    def _usable(self, samples: list[Mapping[str, Any]], error: Exception) -> list[Mapping[str, Any]]:
        """The samples without those that cannot be used; `error` is what all together raised."""
        kept, faults = [], []
        for i, sample in enumerate(samples):
            try:
                self._prepare([sample], i)
                kept.append(sample)
            except _NOT_ITS_FAULT:
                raise
            except Exception as fault:
                faults.append(f"{name_of(i, sample)}: {fault}" if isinstance(fault, MediaError) else str(fault))
        if not faults:  # each can be used by itself
            raise error
        if not kept and self._last_good is None:
            raise ValueError(f"No sample of the batch can be used, and there was none before. {faults[0]}") from error
        if not self.skipped:
            logger.warning(f"Samples are skipped, `collator.skipped` counts them. The first: {faults[0]}")
        self._skipped.add(len(faults))
        return kept or [self._last_good]

    def _located(self, samples: list[Mapping[str, Any]], error: MediaError) -> MediaError:
        """The error about a medium, with the sample that it belongs to."""
        for i, sample in enumerate(samples):
            try:
                self._prepare([sample], i)
            except MediaError as found:
                return located(name_of(i, sample), found)
        return error

    def _chat(self, index: int, sample: Mapping[str, Any]) -> tuple[list[int], list[bool], dict[str, list[Any]]]:
        """Token ids, which the assistant said, and the media of one sample."""
        chat = read_chat(index, sample, self.processor, self.media_root)
        ids, said = chat.encode(self.processor)
        return ids, said, chat.checked().media

    def _row(self, index: int, ids: np.ndarray, said: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray] | None:
        """One sample's ids and labels with placeholders expanded, or None if it is to be dropped."""
        placeholders = [getattr(self.processor, f"{name}_token_id") for name in self.processor.modalities]
        is_medium = np.isin(ids, placeholders)
        excess = int(counts.sum()) - self.max_length if self.max_length is not None else 0
        if excess > 0:
            text = np.flatnonzero(~is_medium)
            if self.on_overlong == "drop":
                return None
            keep = np.ones(len(ids), dtype=bool)
            keep[text[-excess:]] = False
            learnable = (said & ~is_medium)[keep].any()
            if self.on_overlong == "error" or excess > len(text) or not learnable:
                raise ValueError(
                    f"Sample {index} has {int(counts.sum())} tokens, {int(counts[is_medium].sum())} of them media; "
                    f"max_length is {self.max_length}. Raise it, set on_overlong, or give fewer or smaller media."
                )
            ids, said, counts, is_medium = ids[keep], said[keep], counts[keep], is_medium[keep]
        labels = np.where(said & ~is_medium, ids, -100)
        return {"input_ids": np.repeat(ids, counts), "labels": np.repeat(labels, counts)}

    def _batch(self, rows: list[dict[str, np.ndarray]], inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**self._pad(rows), **inputs}

    def _pad(self, rows: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        length = max(len(row["input_ids"]) for row in rows)
        if self.pad_to_multiple_of:
            length = -(-length // self.pad_to_multiple_of) * self.pad_to_multiple_of
        fill = {"input_ids": self.processor.tokenizer.pad_token_id, "labels": -100}
        batch = {name: torch.full((len(rows), length), value) for name, value in fill.items()}
        batch["attention_mask"] = torch.zeros(len(rows), length, dtype=torch.long)
        for i, row in enumerate(rows):
            for name, values in row.items():
                batch[name][i, : len(values)] = torch.from_numpy(values)
            batch["attention_mask"][i, : len(row["input_ids"])] = 1
        return batch
