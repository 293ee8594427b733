"""Turns raw chat samples into a training batch for the stock Trainer."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers.utils import logging

from anymodality.plain.printing import visible

from ..modalities import MediaError
from ..processing.processor import AnyModalityProcessor
from ..processing.tokenization import Prompt, pad
from .records import encode_chats, located, name_of, origin, read_chat


logger = logging.get_logger(__name__)

# Not the sample's fault, so never skipped: a missing decoder, too little memory.
_NOT_ITS_FAULT = (ImportError, MemoryError)


class _Count:
    """A counter for the processes of a data loader: one slot for each, in shared memory."""

    def __init__(self):
        self.slots = torch.zeros(256, dtype=torch.int64).share_memory_()

    def add(self, number: int) -> None:
        worker = torch.utils.data.get_worker_info()
        self.slots[0 if worker is None else 1 + worker.id % 255] += number

    def __int__(self) -> int:
        return int(self.slots.sum())


class Features(Protocol):
    """Reads precomputed features instead of media: a `FeatureStore`."""

    def inputs(
        self, processor: AnyModalityProcessor, media: Mapping[str, list[Any]]
    ) -> tuple[dict[str, torch.Tensor], dict[str, list[int]]]:
        """As the processor's `process_media`: model inputs, and the number of tokens of each item."""
        ...


@dataclass
class AnyModalityDataCollator:
    """Reads media, tokenises, labels the assistant's text, pads on the right.

    A sample is a mapping with `messages`; media are in the messages' parts, or in columns named by their arguments
    (`images`, `audio`, `imu`, ...) in the order of their bare parts (`{"type": "image"}`). Other formats that
    `data.normalize` reads work, too: `conversations` with markers, a sample of a WebDataset shard.

    Args:
        max_length: tokens per sample, media included; None for no limit.
        on_overlong: for a longer sample: "error"; "drop" it (counted in `dropped`); "truncate_text" cuts text at its
            end, never a medium.
        pad_to_multiple_of: pads further, to a multiple of this.
        on_error: for a sample that cannot be used (a missing or broken file, media and placeholders that differ in
            number, no assistant text): "error", or "skip" it (counted in `skipped`, a warning names the first).
            If "drop" and "skip" leave no sample of a batch, the last usable sample before it takes its place.
        media_root: folder that relative paths are in.
        features: stored features of frozen towers; their media are not read.
        skip_logits: the stock Trainer's loss gets logits only for supervised labels, which saves most of their memory.
            Set False if your own loss or training metric reads all logits.
    """

    processor: AnyModalityProcessor
    max_length: int | None = None
    on_overlong: str = "error"
    pad_to_multiple_of: int | None = None
    on_error: str = "error"
    media_root: str | Path | None = None
    features: Features | None = None
    skip_logits: bool = True

    def __post_init__(self):
        if self.on_error not in ("error", "skip"):
            raise ValueError(f'on_error must be "error" or "skip", not {self.on_error!r}.')
        if self.on_overlong not in ("error", "drop", "truncate_text"):
            raise ValueError(f'on_overlong must be "error", "drop" or "truncate_text", not {self.on_overlong!r}.')
        self._dropped, self._skipped = _Count(), _Count()
        self._last_good: Mapping[str, Any] | None = None

    @property
    def dropped(self) -> int:
        """Samples longer than `max_length` that were dropped so far, in all processes of the data loader."""
        return int(self._dropped)

    @property
    def skipped(self) -> int:
        """Unusable samples that were skipped so far, in all processes of the data loader."""
        return int(self._skipped)

    def __call__(self, samples: list[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Returns `input_ids`, `attention_mask`, `labels` `(batch, sequence)` int64 and the media's model inputs.

        With `skip_logits`, also `skip_logits` `(batch,)` of True: data loaders cut and join batches by rows.
        """
        try:
            prompts, inputs = self._prepare(samples)
        except _NOT_ITS_FAULT:
            raise
        except Exception as error:
            if self.on_error == "skip":
                return self(self._usable(samples, self._faults(samples, error)))
            if isinstance(error, MediaError):
                fault = next(iter(self._faults(samples, error).values()))
                first = origin(error)  # not all that was raised on its way
                raise fault from (None if first is error else first)
            raise
        kept = [sample for sample, prompt in zip(samples, prompts, strict=True) if prompt is not None]
        if kept and (self.on_error == "skip" or self.on_overlong == "drop"):
            self._last_good = kept[0]
        if len(kept) < len(samples):
            if not kept and self._last_good is None:
                raise ValueError(
                    f"Every sample is longer than max_length={self.max_length}, of this batch and before it."
                )
            self._dropped.add(len(samples) - len(kept))
            logger.warning_once("Samples longer than max_length are dropped (`collator.dropped` counts them).")
            return self(kept or [self._last_good])
        return self._batch([prompt for prompt in prompts if prompt is not None], inputs)

    def _prepare(
        self, samples: list[Mapping[str, Any]], first: int = 0, of_batch: bool = True
    ) -> tuple[list[Prompt | None], dict[str, torch.Tensor]]:
        """The samples' tokens, None for dropped ones, and the media's model inputs. Errors call the samples `first` and so
        on, of a batch or of a file."""
        chats = [
            read_chat(first + i, one, self.processor, self.media_root, of_batch=of_batch)
            for i, one in enumerate(samples)
        ]
        encoded = encode_chats(chats, self.processor)
        found = [chat.checked().media for chat in chats]
        prompts = [prompt for prompt in encoded if prompt is not None]  # all: a chat without one has a problem
        media = {name: [item for own in found for item in own.get(name, [])] for name in self.processor.modalities}
        if self.features is None:
            inputs, token_counts = self.processor.process_media(media)
        else:
            inputs, token_counts = self.features.inputs(self.processor, media)
        self.processor.prompt_tokenizer.place_media(prompts, token_counts)
        return [self._fitted(chat.where, prompt) for chat, prompt in zip(chats, prompts, strict=True)], inputs

    def _faults(self, samples: list[Mapping[str, Any]], error: Exception) -> dict[int, Exception]:
        """Index of each unusable sample -> its error, which names the sample. `error`: the error of the full batch."""
        faults: dict[int, Exception] = {}
        for i, sample in enumerate(samples):
            try:
                self._prepare([sample], i)
            except _NOT_ITS_FAULT:
                raise
            except Exception as fault:
                faults[i] = located(name_of(i, sample, True), fault) if isinstance(fault, MediaError) else fault
        if not faults:  # each sample alone is usable
            raise error
        return faults

    def _usable(self, samples: list[Mapping[str, Any]], faults: dict[int, Exception]) -> list[Mapping[str, Any]]:
        """The usable samples; the others are counted."""
        kept, first = [sample for i, sample in enumerate(samples) if i not in faults], next(iter(faults.values()))
        if not kept and (self._last_good is None or samples[0] is self._last_good):
            raise ValueError(
                f"No sample can be used, of this batch or before it. The first problem: {first}"
            ) from first
        if not self.skipped:
            logger.warning(f"Samples are skipped (`collator.skipped` counts them). The first: {visible(first)}")
        self._skipped.add(len(faults))
        return kept or [self._last_good]

    def _fitted(self, where: str, prompt: Prompt) -> Prompt | None:
        """One sample with `max_length` tokens at most, or None if it is dropped."""
        excess = 0 if self.max_length is None else len(prompt) - self.max_length
        if excess <= 0:
            return prompt
        if self.on_overlong == "drop":
            return None
        cut = prompt.without_last_words(excess) if self.on_overlong == "truncate_text" else None
        if cut is None:
            raise ValueError(
                f"{where} has {len(prompt)} tokens, {prompt.repeats[prompt.is_medium].sum()} of them media; "
                f"max_length is {self.max_length}. Raise it, set on_overlong, or give fewer or smaller media."
            )
        return cut

    def _batch(self, prompts: list[Prompt], inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        rows = [{"attention_mask": np.ones(len(prompt), dtype=np.int64), **self._row(prompt)} for prompt in prompts]
        return {**self._padded(rows), **inputs}

    def _row(self, prompt: Prompt) -> dict[str, np.ndarray]:
        whole = prompt.expanded()
        return {"input_ids": whole.ids, "labels": whole.labels}

    def _padded(self, rows: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        """Columns of the rows `(rows, sequence)`, padded on the right."""
        values, batch = {"input_ids": self.processor.tokenizer.pad_token_id, "labels": -100}, {}
        for name in rows[0]:
            column = pad([row[name] for row in rows], values.get(name, 0), multiple=self.pad_to_multiple_of)
            batch[name] = torch.from_numpy(np.stack(column))
        if self.skip_logits:
            batch["skip_logits"] = torch.ones(len(rows), dtype=torch.bool)
        return batch
