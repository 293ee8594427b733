"""Items of any size.

An item (an image, a recording, a video) is a list of frames, which are what its tower reads at one go: the image itself, a
tile of it, a frame of the video, a window of the recording. A frame gives a list of features. Both lists may be as long as
the content asks: in a batch, `<modality>_frames (items,)` says how many frames each item has, and
`<modality>_feature_lengths (frames,)` how many features each frame gives. What is the same for all stands in the config
(`num_frames`, `feature_length`), and not in the batch. The tower's inputs are those of all frames, one behind the other.
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
        values: `(frames, length, dim)`, of which what lies behind a frame's own length means nothing, also given as
            `(items, frames, length, dim)`; or `(features, dim)`, those of all frames as one row.
        lengths: `(frames,)` int64, features of each frame; None where each has all of `length`.
        per_item: `(items,)` int64, frames of each item; None where each has one.
    """

    values: torch.Tensor
    lengths: torch.Tensor | None = None
    per_item: torch.Tensor | None = None

    def __post_init__(self):
        if self.values.ndim == 4:
            self.values = self.values.flatten(0, 1)

    def by(self, reads: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(items, frames, length, dim)` as an aligner takes them, and the mask of those that are real, or None: items are
        what it `reads` by itself, each "feature" (all of them as one item), each "frame" or each "item"."""
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
    "The given frames and feature lengths do not belong to the media: they lead to another number of tokens. Pass the "
    "processor's whole output to the model, unchanged."
)


def tokens_of_items(
    tokens: torch.Tensor, config: AlignerConfig, lengths: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    """Each item's `(tokens, hidden)` out of what an aligner gave for what it reads by itself (`Frames.by`).

    Args:
        tokens: `(1, features, hidden)`, `(frames, tokens, hidden)` or `(items, tokens, hidden)`.
        lengths: of each item, the features of its frames.
    """
    counts = [config.count_item_tokens(item) for item in lengths]
    if config.reads == "item":
        return [item[:count] for item, count in zip(tokens, counts, strict=True)]
    own = [config.count_tokens(1, length) for item in lengths for length in item]
    if config.reads == "frame" and len(own) == len(tokens):
        kept = torch.arange(tokens.shape[1]) < torch.tensor(own)[:, None]
        tokens = tokens.flatten(0, 1)[None] if kept.all() else tokens[kept.to(tokens.device)][None]
    # Not an `if`: a compiled graph asserts what depends on data, rather than branching on it.
    torch_compilable_check(len(tokens) == 1 and tokens.shape[1] == sum(counts), _NOT_THEIRS)
    return list(tokens[0].split(counts))


def in_rows(values: torch.Tensor, grids: torch.Tensor) -> torch.Tensor:
    """The patches of grids, one a row. Some sub-processors join them side by side: `(1, channels, side, patches * side)`."""
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
    """The model inputs of some of a batch's items, in the order of `items`.

    Args:
        inputs: of one modality, as arguments of `get_modality_features`: names of model inputs, "frames",
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
    """Which rows belong to the chosen of some groups that have so many rows each, one behind the other."""
    counts = counts.cpu()
    starts, own = nn.functional.pad(counts.cumsum(0), (1, 0))[chosen], counts[chosen]
    ends = own.cumsum(0)
    return torch.arange(int(own.sum())) + (starts - (ends - own)).repeat_interleave(own)
