"""From raw chat samples to a training batch, for the stock Trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from .modalities import MODALITIES
from .processing import AnyModalityProcessor


logger = logging.get_logger(__name__)


@dataclass
class AnyModalityDataCollator:
    """Reads media, tokenises, labels what the assistant said, pads on the right.

    A sample is a mapping with `messages`; media stand in the messages' parts, or in columns by their argument names
    (`images`, `audio`, `imu`, ...) in the order of the bare parts (`{"type": "image"}`) that they belong to.

    Args:
        max_length: tokens per sample, media included; None for no limit.
        on_overlong: for a longer sample: "error"; "drop" it (counted in `dropped`); "truncate_text" takes text from
            its end, never from a medium.
        pad_to_multiple_of: pads further, to a multiple of this.
    """

    processor: AnyModalityProcessor
    max_length: int | None = None
    on_overlong: str = "error"
    pad_to_multiple_of: int | None = None
    dropped: int = 0

    def __post_init__(self):
        if self.on_overlong not in ("error", "drop", "truncate_text"):
            raise ValueError(f'on_overlong must be "error", "drop" or "truncate_text", not {self.on_overlong!r}.')

    def __call__(self, samples: list[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Returns `input_ids`, `attention_mask`, `labels` `(batch, sequence)` int64 and the media's model inputs."""
        chats = [self._chat(i, sample) for i, sample in enumerate(samples)]
        media = {
            name: [item for _, _, found in chats for item in found.get(name, [])] for name in self.processor.modalities
        }
        inputs, token_counts = self.processor.process_media(media)
        repeats = self.processor.placeholder_repeats([ids for ids, _, _ in chats], token_counts)
        rows = []
        for i, ((ids, said, _), counts) in enumerate(zip(chats, repeats, strict=True)):
            rows.append(self._row(i, np.asarray(ids), np.asarray(said), counts))
        if any(row is None for row in rows):
            kept = [sample for sample, row in zip(samples, rows, strict=True) if row is not None]
            if not kept:
                raise ValueError(f"Every sample of the batch is longer than max_length={self.max_length}.")
            self.dropped += len(samples) - len(kept)
            logger.warning_once("Samples longer than max_length are dropped; `collator.dropped` counts them.")
            return self._again(kept)
        return {**self._pad([row for row in rows if row is not None]), **inputs}

    def _again(self, samples: list[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        return self(samples)

    def _chat(self, index: int, sample: Mapping[str, Any]) -> tuple[list[int], list[bool], dict[str, list[Any]]]:
        """Token ids, which the assistant said, and the media of one sample."""
        if not isinstance(sample, Mapping) or "messages" not in sample:
            columns = ", ".join(sample) if isinstance(sample, Mapping) else type(sample).__name__
            raise ValueError(
                f"Sample {index} has no `messages` (its columns: {columns or 'none'}). Trainer removes columns that "
                "the model's forward does not name: set remove_unused_columns=False in TrainingArguments."
            )
        messages = sample["messages"]
        if isinstance(messages, str) or not isinstance(messages, Sequence) or not messages:
            raise ValueError(f"Sample {index} has no messages: {messages!r:.80} is not a list of some.")
        (messages,), _ = self.processor._normalize_conversations(list(messages))
        media = self._media(index, sample, messages)
        ids, said = self.processor.encode_chat(messages, tools=sample.get("tools"))
        for name, row in self.processor.modalities.items():
            expected, given = ids.count(getattr(self.processor, f"{name}_token_id")), len(media.get(name, []))
            if expected != given:
                raise ValueError(
                    f"Sample {index} has {expected} {row['token']} placeholders, but {given} media of {name!r}. Each "
                    f'content part of type "{name}" needs one medium, in the part or in the column '
                    f"{MODALITIES[name].argument!r}."
                )
        if not any(said):
            raise ValueError(f"Sample {index} has no words of the assistant to learn from.")
        return ids, said, media

    def _media(self, index: int, sample: Mapping[str, Any], messages: list[dict]) -> dict[str, list[Any]]:
        media = self.processor.media_of(messages)
        for name in MODALITIES:
            column = sample.get(MODALITIES[name].argument)
            if column is None or (isinstance(column, (list, tuple)) and not column):
                continue
            if name not in self.processor.modalities:
                raise ValueError(f"Sample {index} has media of {name!r}, a modality that this model lacks.")
            if media.get(name):
                raise ValueError(f"Sample {index} has media of {name!r} both in its messages and in a column.")
            media[name] = [column] if MODALITIES[name].is_item(column) else list(column)
        return media

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
