"""Runs a tower on the sub-processor's outputs for dummy inputs."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from ..model.frames import side_by_side
from ..processing.media_inputs import extract
from ..towers import compute_dtype, run_tower
from .part import Part, Reading


Inputs = dict[str, torch.Tensor]


@torch.no_grad()
def dummy_input(part: Part, *sizes: int) -> Inputs:
    """The sub-processor's outputs for dummy inputs of these sizes; if `part.cut`, for the frames that they are cut into."""
    spec, processor, options = part.spec, part.processor, part.options
    try:
        items = [spec.read(spec.dummy(processor, options, size), processor, options) for size in sizes]
        frames = [one for item in items for one in (spec.frames(item, processor, options) if part.cut else [item])]
        return extract(spec, frames, processor, options)
    except Exception as error:
        raise ValueError(
            f"The processor of {part.name!r} ({type(processor).__name__}) cannot prepare a dummy input: {error}"
        ) from error


def tower_arguments(part: Part, tower: PreTrainedModel, inputs: Inputs) -> Inputs:
    """Arguments of a tower's forward: one row for each item, or for each frame."""
    device = next((weight.device for weight in tower.parameters()), torch.device("cpu"))
    arguments, main = {}, next(iter(part.arguments))
    for key, argument in part.arguments.items():
        value = inputs[key].to(device)
        value = side_by_side(value) if key == main and part.config.side_by_side else value
        value = value.to(compute_dtype(tower)) if value.is_floating_point() else value
        value = value.logical_not() if argument == part.config.marks_padding else value
        arguments[argument] = value.flatten(0, 1) if part.config.per_frame else value
    return arguments


@torch.no_grad()
def run_part(
    part: Part, tower: PreTrainedModel, arguments: Inputs, reading: Reading, run: Callable[..., Any] = run_tower
) -> tuple:
    """The result of `run`: features `(items or frames, length, dim)` or `(features, dim)` first."""
    try:
        return run(tower, arguments, *reading)
    except Exception as error:
        shapes = {name: tuple(value.shape) for name, value in arguments.items()}
        raise ValueError(
            f"The tower of {part.name!r} ({type(tower).__name__}) cannot read what its processor "
            f"({type(part.processor).__name__}) gives ({shapes}): {error}"
        ) from error


def check_apart(part: Part, alone: torch.Tensor, beside: torch.Tensor) -> None:
    """Raises ValueError if an item's features change when another item is in the batch."""
    first = beside[: len(alone)]
    close = 1e-3 if alone.dtype == torch.float32 else 0.1
    if first.shape != alone.shape or (first - alone).abs().max() > close * alone.abs().max():
        cause = "they are random" if first.shape == alone.shape else "it mixes the items of a batch"
        raise ValueError(
            f"The tower of {part.name!r} ({type(part.tower).__name__}) changes an item's features when another item is in "
            f"the batch (shapes {tuple(alone.shape)} and {tuple(beside.shape)}): {cause}."
        )
