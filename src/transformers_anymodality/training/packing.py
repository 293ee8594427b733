"""Packing: several samples in one row instead of padding. They do not see each other.

A new sample starts where position ids restart, and attention stays within it: Transformers' masks do so for `position_ids`
without an `attention_mask`, with eager, SDPA and flex attention; flash attention does so for a single row.
"""

import heapq
import re
from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data.collator import AnyModalityDataCollator
from ..model.frames import take_media
from ..processing.tokenization import Prompt
from ..utils.tensors import in_eval
from ..utils.upstream import is_flash_attention_requested, set_attention
from .parts import composite_of


# Allowed rounding, as a share of the change that seeing the previous sample would make.
_EXACT, _HALF_EXACT = 1e-3, 0.1
# Padding after the samples in the rows of the check.
_PADDING = 6


@dataclass
class AnyModalityPackingCollator(AnyModalityDataCollator):
    """As `AnyModalityDataCollator`, with as many samples in a row as fit into `max_length` tokens, media included.

    Samples and media are never split. Loss and gradients are the same as with one sample per row: the first label of each
    is masked, because no token before it predicts it. There are fewer rows than samples, so choose a larger
    `per_device_train_batch_size`: it still counts samples.

    Args:
        max_length: tokens per row, and so per sample.
        model: the model that is trained; it is checked once whether packing is exact for it, and is not kept.

    Raises:
        ValueError: packing would change the training; the message says why.
    """

    model: InitVar[nn.Module | None] = None

    def __post_init__(self, model: nn.Module | None):
        super().__post_init__()
        if self.max_length is None:
            raise ValueError("Packing needs max_length, the number of tokens per row.")
        if not isinstance(model, nn.Module):
            raise ValueError("Packing is not exact for every model: pass `model`, so that it can be checked.")
        check_packing(model, self.max_length)
        # Flash attention has no mask to separate rows, and does not need rows: one long row costs no more.
        self.one_row = is_flash_attention_requested(composite_of(model).language_model.config)

    def _batch(self, prompts: list[Prompt], inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """`input_ids`, `labels`, `position_ids` `(rows, sequence)`, and the media in the order of their placeholders."""
        lengths = [len(prompt) for prompt in prompts]
        packs = [list(range(len(prompts)))] if self.one_row else plan_rows(lengths, self.max_length)
        rows = [self._row(prompt) for prompt in prompts]
        joined = [{name: np.concatenate([rows[i][name] for i in pack]) for name in rows[0]} for pack in packs]
        batch = self._padded(joined)
        for row, positions in zip(joined, batch["position_ids"], strict=True):
            padding = positions[len(row["position_ids"]) :]  # counts as a separate sample
            padding.copy_(torch.arange(len(padding)))
        for name, own in self.processor.modalities.items():
            token_id = self.processor.prompt_tokenizer.placeholders[name]
            ends = np.cumsum([prompt.count(token_id) for prompt in prompts])
            items = np.split(np.arange(ends[-1]), ends[:-1])
            batch |= take_media(name, own, inputs, np.concatenate([items[i] for pack in packs for i in pack]).tolist())
        return batch

    def _row(self, prompt: Prompt) -> dict[str, np.ndarray]:
        row = super()._row(prompt)
        row["labels"][0] = -100
        return {**row, "position_ids": np.arange(len(prompt))}


def plan_rows(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of the samples in each row: as many rows as `first_fit` finds, but of nearly equal length.

    Rows are padded to the longest one, so rows of equal length need the least padding.
    """
    fitted = first_fit(lengths, capacity)
    packs: list[list[int]] = [[] for _ in fitted]
    rows = [(0, place) for place in range(len(packs))]  # a heap: the shortest comes first
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length, place = rows[0]
        packs[place].append(i)
        heapq.heapreplace(rows, (length + lengths[i], place))
    if max(rows, default=(0, 0))[0] > capacity:
        return fitted
    return [sorted(pack) for pack in packs]


def first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of the samples in each row: from the longest on, each goes into the first row with room. Sorted in a row."""
    packs: list[list[int]] = []
    room = np.full(len(lengths), capacity, dtype=np.int32)
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fits = room[: len(packs)] >= lengths[i]  # vectorised: there may be as many rows as samples
        place = int(fits.argmax()) if fits.any() else len(packs)
        if place == len(packs):
            packs.append([])
        packs[place].append(i)
        room[place] -= lengths[i]
    return [sorted(pack) for pack in packs]


# --- whether packing is exact --------------------------------------------------------------------------------------


def check_packing(model: nn.Module, max_length: int) -> None:
    """Raises ValueError if packed samples would not give the loss that they give in separate rows.

    Aligners that hide places are found by their output. The language model reads three samples alone, in one row, and as
    one text. The samples are short, or fill a row if its config has a window shorter than a row.
    """
    composite = composite_of(model)
    for modality in composite.config.modalities:
        if _hides_places(composite, modality):
            raise ValueError(
                f"Packing is not exact with the aligner of {modality!r} ({type(composite.aligner(modality)).__name__}): "
                "it hides placeholders by an attention mask, which packed rows do not have. Use AnyModalityDataCollator."
            )
    language = composite.language_model
    implementation, device = language.config._attn_implementation, next(language.parameters()).device
    borrowed = is_flash_attention_requested(language.config) and device.type == "cpu"
    try:
        if borrowed:  # flash attention reads the same position ids, but runs on accelerators only
            set_attention(language.config, "sdpa")
        with in_eval(composite):
            reason = _difference(composite, _lengths(language.config, max_length))
    except Exception as error:  # a language model may raise anything for position ids
        reason = f"it fails ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    finally:
        if borrowed:
            set_attention(language.config, implementation)
    if reason is not None:
        raise ValueError(
            f"Packing is not exact for {type(language).__name__}: {reason}. Use AnyModalityDataCollator, which pads."
        )


@torch.no_grad()
def _hides_places(composite: Any, modality: str) -> bool:
    config, settings = composite.config.aligner_config(modality), composite.config.modalities[modality]
    shape = (1, settings.num_frames or 1, settings.feature_length or 64, config.feature_size)
    features = torch.ones(shape, device=next(composite.aligner(modality).parameters()).device)
    return config.sum_neighbours or composite.align(modality, features)[1] is not None


@torch.no_grad()
def _difference(composite: Any, lengths: list[int]) -> str | None:
    """What packing would change, or None."""
    device, one_row = composite.device, is_flash_attention_requested(composite.language_model.config)
    segments = [ids.to(device) for ids in _segments(composite, lengths)]
    alone = [composite(input_ids=ids[None]).logits[0].float() for ids in segments]
    as_one = composite(input_ids=torch.cat(segments)[None]).logits[0].float()
    seen = (as_one - torch.cat(alone)).abs().max()
    tolerance = _EXACT if composite.language_model.dtype == torch.float32 else _HALF_EXACT
    orders = [(0, 1, 2)] if one_row else [(0, 1, 2), (2, 0, 1)]
    padding = segments[0].new_zeros(_PADDING)
    parts = [[*(segments[i] for i in order), padding] for order in orders]
    ids = torch.stack([torch.cat(row) for row in parts])
    positions = torch.stack([torch.cat([torch.arange(len(one), device=device) for one in row]) for row in parts])
    labels = ids.masked_fill(positions == 0, -100)
    labels[:, -_PADDING:] = -100
    output = composite(input_ids=ids, position_ids=positions, labels=labels)
    expected = torch.stack([torch.cat([alone[i] for i in order]) for order in orders])
    left = (output.logits[:, :-_PADDING].float() - expected).abs().max()
    if not left <= tolerance * seen:
        return "earlier samples in a row change its output (it keeps a state, or counts positions itself)"
    labels = nn.utils.rnn.pad_sequence(segments, batch_first=True, padding_value=-100)
    mask = (labels >= 0).long()
    padded = composite(input_ids=labels.clamp(min=0), attention_mask=mask, labels=labels).loss.item()
    if abs(output.loss.item() - padded) > tolerance * abs(padded) or getattr(output, "aux_loss", None) is not None:
        return "its loss does not depend on labels alone (a router's loss also counts padding)"
    return None


# Settings that matter only in long samples.
_WINDOW = re.compile(r"^(?!.*(moe|expert|group)).*(window|chunk|block|local|keep|top_?k)")


def _lengths(config: Any, max_length: int) -> list[int]:
    """Lengths of the three samples."""
    sizes = [value for name, value in config.to_dict().items() if type(value) is int and _WINDOW.search(name)]
    total, short = min(max_length, getattr(config, "max_position_embeddings", None) or max_length), [7, 12, 9]
    if total <= sum(short) or not any(2 < size < total for size in sizes):
        return short
    return [total // 6, total - total // 6 - total // 4, total // 4]


def _segments(composite: Any, lengths: list[int]) -> list[torch.Tensor]:
    rows = min(composite.get_input_embeddings().weight.shape[0], composite.config.get_text_config().vocab_size)
    media = set(composite.config.placeholder_ids)
    words = torch.tensor([i for i in range(min(rows, 1000)) if i not in media])
    generator = torch.Generator().manual_seed(0)
    return [words[torch.randint(len(words), (length,), generator=generator)] for length in lengths]
