"""Items of any size.

An item (an image, a recording, a video) is a list of frames. A frame is one input of the tower: the image itself, a tile of
it, a frame of the video, a window of the recording. A frame gives a list of features. Both lists may have any length: in a
batch, `<modality>_frames (items,)` is the number of frames of each item, and `<modality>_feature_lengths (frames,)` the
number of features of each frame. Numbers that are the same for all are in the config (`num_frames`, `feature_length`), not
in the batch. The tower's inputs are those of all frames, one after another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from transformers.utils import torch_compilable_check

from ..aligners import AlignerConfig
from ..utils.tensors import row_counts
from .configuration import SIZES


@dataclass
class Frames:
    """Features of frames that differ in number or in length.

    Attributes:
        values: `(frames, length, dim)` or `(items, frames, length, dim)`, where values after a frame's own length are
            padding; or `(features, dim)`, those of all frames as one row.
        lengths: `(frames,)` int64, features of each frame; None if each has all of `length`.
        per_item: `(items,)` int64, frames of each item; None if each has one.
    """

    values: torch.Tensor
    lengths: torch.Tensor | None = None
    per_item: torch.Tensor | None = None

    def __post_init__(self):
        if self.values.ndim == 4:
            self.values = self.values.flatten(0, 1)

    def by(self, reads: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(items, frames, length, dim)` for an aligner, and the mask of real features, or None. Items are the units that
        the aligner `reads` separately: "feature" (all of them as one item), "frame" or "item"."""
        if reads == "feature":
            return self._by_feature()[None, None], None
        values, mask = self._by_frame()
        if reads == "frame" or self.per_item is None:
            return values[:, None], None if mask is None else mask[:, None]
        place = torch.arange(int(self.per_item.max()), device=values.device)
        there = place < self.per_item[:, None]
        items = values.new_zeros(*there.shape, *values.shape[1:]).masked_scatter(there[..., None, None], values)
        if mask is None:
            return items, there[..., None].expand(items.shape[:3])
        return items, mask.new_zeros(items.shape[:3]).masked_scatter(there[..., None], mask)

    def _by_feature(self) -> torch.Tensor:
        """`(features, dim)`."""
        if self.values.ndim == 2:
            return self.values
        return self.values.flatten(0, 1) if self.lengths is None else self.values[self._mask(self.values.shape[1])]

    def _by_frame(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(frames, longest, dim)`, and `(frames, longest)` bool."""
        if self.lengths is None:
            return self.values, None
        if self.values.ndim == 3:
            return self.values, self._mask(self.values.shape[1])
        mask = self._mask(int(self.lengths.max()))
        padded = self.values.new_zeros(*mask.shape, self.values.shape[-1])
        return padded.masked_scatter(mask[..., None], self.values), mask

    def _mask(self, longest: int) -> torch.Tensor:
        assert self.lengths is not None
        return torch.arange(longest, device=self.lengths.device) < self.lengths[:, None]


_NOT_THEIRS = (
    "The given frames and feature lengths do not belong to the media: they give another number of tokens. Pass the "
    "processor's full output to the model, unchanged."
)


def tokens_of_items(
    tokens: torch.Tensor, config: AlignerConfig, lengths: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    """Each item's `(tokens, hidden)` from the aligner's output for the units that it reads (`Frames.by`).

    Args:
        tokens: `(1, features, hidden)`, `(frames, tokens, hidden)` or `(items, tokens, hidden)`.
        lengths: for each item, the features of its frames.
    """
    counts = [config.count_item_tokens(item) for item in lengths]
    if config.reads == "item":
        return [item[:count] for item, count in zip(tokens, counts, strict=True)]
    own = [config.count_tokens(1, length) for item in lengths for length in item]
    if config.reads == "frame" and len(own) == len(tokens):
        kept = torch.arange(tokens.shape[1]) < torch.tensor(own)[:, None]
        tokens = tokens.flatten(0, 1)[None] if kept.all() else tokens[kept.to(tokens.device)][None]
    # Not an `if`: a compiled graph can assert values of data, but not branch on them.
    torch_compilable_check(len(tokens) == 1 and tokens.shape[1] == sum(counts), _NOT_THEIRS)
    return list(tokens[0].split(counts))


def in_rows(values: torch.Tensor, grids: torch.Tensor) -> torch.Tensor:
    """Patches of grids, one per row. Some sub-processors join them side by side: `(1, channels, side, patches * side)`."""
    count = int(row_counts(grids).sum())
    return values if len(values) == count else torch.cat(values.chunk(count, -1))


def side_by_side(values: torch.Tensor) -> torch.Tensor:
    """The inverse of `in_rows`."""
    return torch.cat(values.chunk(len(values)), -1)


class _Settings(Protocol):
    """The settings that a model (`ModalityConfig`) and a processor (`ModalityInputs`) share."""

    inputs: dict[str, str]
    grid: str | None

    @property
    def main_input(self) -> str: ...


def take_media(
    modality: str, settings: _Settings, inputs: Mapping[str, torch.Tensor], items: Sequence[int]
) -> dict[str, torch.Tensor]:
    """As `take_items`, for all model inputs under their full names."""
    names = {f"{modality}_{one}": one for one in ("features", *SIZES)} | {name: name for name in settings.inputs}
    given = {names[name]: value for name, value in inputs.items() if name in names}
    taken = take_items(settings, given, items) if given else {}
    return {name: taken[names[name]] for name in inputs if name in names}


def take_items(
    settings: _Settings, inputs: Mapping[str, torch.Tensor], items: Sequence[int]
) -> dict[str, torch.Tensor]:
    """The model inputs of some items of a batch, in the order of `items`.

    Args:
        inputs: arguments of `get_modality_features` for one modality: names of model inputs, "frames",
            "feature_lengths", "features".
    """
    frames, lengths = inputs.get("frames"), inputs.get("feature_lengths")
    chosen = torch.as_tensor(items, dtype=torch.long)
    of_frames = chosen if frames is None else _rows(frames, chosen)
    grid = inputs.get(settings.grid) if settings.grid else None
    taken = {}
    for name, value in inputs.items():
        rows = of_frames
        if name == "frames" or (name == "features" and value.ndim == 4):
            rows = chosen
        elif name == "features" and value.ndim == 2:
            assert lengths is not None
            rows = _rows(lengths, of_frames)
        elif grid is not None and name == settings.main_input:
            rows = _rows(grid.prod(-1), of_frames)
        taken[name] = value[rows.to(value.device)]
    return taken


def _rows(counts: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """The rows of the `chosen` groups; groups follow each other and have `counts` rows."""
    counts = counts.cpu()
    starts, own = nn.functional.pad(counts.cumsum(0), (1, 0))[chosen], counts[chosen]
    ends = own.cumsum(0)
    return torch.arange(int(own.sum())) + (starts - (ends - own)).repeat_interleave(own)
