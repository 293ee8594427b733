"""Trials of towers that read items of different lengths together: which axis is the length, and what padding changes."""

from functools import partial

import torch
from transformers import PreTrainedModel

from ..towers import build_tower, compute_dtype, feature_length
from ..utils.tensors import padded_to_multiple
from .part import Part, Reading
from .running import Inputs, dummy_input, run_part, tower_arguments
from .small import on_small_copy


def channels_first(part: Part, tower: PreTrainedModel, items: list[Inputs], reading: Reading) -> bool | None:
    """Whether the last axis of a tower's features is their length, the axis in which a short and a long item differ. None
    if the sizes must decide."""
    as_given = (*reading[:3], False)
    (first, last), (other_first, other_last) = [
        run_part(part, tower, tower_arguments(part, tower, item), as_given)[0].shape[1:] for item in items
    ]
    return None if (first == other_first) == (last == other_last) else first == other_first


_MANY = 2**7 * 3**2 * 5 * 7  # a multiple of nearly every number of steps that a tower may read at once


def find_multiple(part: Part) -> int | None:
    """The number of steps whose multiples alone a tower accepts; None if it accepts, or refuses, every number."""
    short = dummy_input(part, 0)

    def takes(steps: int) -> bool:
        try:
            return feature_length(part.tower.config, padded_to_multiple(short, steps)) > 0
        except Exception:  # a forward may raise anything
            return False

    if not takes(_MANY) or takes(_MANY + 1):
        return None
    return next((one for one in range(2, _MANY + 1) if _MANY % one == 0 and takes(_MANY + one)), None)


def stands_padding(part: Part, tower: PreTrainedModel, alone: list[torch.Tensor], reading: Reading) -> bool:
    """Whether a short item keeps its features when its sub-processor pads it to the length of a longer one.

    Args:
        alone: features of each item alone.
    """
    if compute_dtype(tower) != torch.float32:  # rounding hides what padding changes
        return on_small_copy(tower.config, build_tower, partial(_stands_padding, part, reading=reading))
    try:
        both = dummy_input(part, 0, 1)
    except ValueError:  # it cannot be padded at all
        return False
    together = run_part(part, tower, tower_arguments(part, tower, both), reading)[0]
    pairs = [(one, row[: one.shape[1]]) for one, row in zip(alone, together, strict=True)]
    return all((one[0] - row).abs().max() <= 1e-4 * one.abs().max() for one, row in pairs)


def _stands_padding(part: Part, tower: PreTrainedModel, reading: Reading) -> bool:
    alone = [
        run_part(part, tower, tower_arguments(part, tower, dummy_input(part, size)), reading)[0] for size in (0, 1)
    ]
    return stands_padding(part, tower, alone, reading)
