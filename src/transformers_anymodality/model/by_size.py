"""Runs a tower on frames of one size at a time, if padding would change its features: stacked convolutions and
normalisation over time see padding.

Such a tower has one more model input, `<modality>_input_sizes (frames, axes)` int64: the unpadded size of each axis of each
other input, with inputs in alphabetical order.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput

from ..utils.tensors import padded_together


# Used in place of an argument of the tower's forward.
INPUT_SIZES = "input_sizes"

Inputs = Mapping[str, torch.Tensor]


def joined(frames: Sequence[Inputs], names: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """Joins separately prepared frames to a batch, with their sizes.

    Args:
        names: model input -> the sub-processor's name of it.
    """
    keys = [names[name] for name in sorted(names) if names[name] in frames[0]]
    sizes = torch.tensor([[size for key in keys for size in frame[key].shape[1:]] for frame in frames])
    return {**{key: padded_together([frame[key] for frame in frames]) for key in keys}, INPUT_SIZES: sizes}


def encode_by_size(
    encode: Callable[[Inputs], tuple[torch.Tensor, Any]],
    inputs: Inputs,
    sizes: torch.Tensor | None,
    dummy: Inputs | None = None,
) -> tuple[torch.Tensor, Any]:
    """Runs `encode` for the frames of one size at a time, and returns the features of all.

    Args:
        encode: inputs -> features and the tower's own output.
        sizes: sizes of the inputs, see above; None if all are equal.
        dummy: inputs of a dummy item for a tower whose weights are sharded over processes: it makes up for runs that
            other processes have more; None for other towers.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, size in enumerate([()] if sizes is None else sizes.tolist()):
        groups.setdefault(tuple(size), []).append(row)
    more = 0 if dummy is None else _most_runs(inputs, len(groups)) - len(groups)  # before any run
    done = [encode(inputs if sizes is None else _cut(inputs, rows, size)) for size, rows in groups.items()]
    spare = [encode(dummy or {})[0].sum() for _ in range(more)]
    if len(done) == 1:
        features, output = done[0]
    else:
        order = torch.tensor([*chain.from_iterable(groups.values())]).argsort()
        features, output = _together(done, order)
    return features + 0 * sum(spare) if spare else features, output


def _together(done: Sequence[tuple[torch.Tensor, Any]], order: torch.Tensor) -> tuple[torch.Tensor, Any]:
    def together(parts: Sequence[torch.Tensor]) -> torch.Tensor:
        return padded_together(parts)[order.to(parts[0].device)]

    features, outputs = zip(*done, strict=True)
    recorded: dict[str, Any] = {}
    for name in ("hidden_states", "attentions"):
        layers = [getattr(one, name, None) for one in outputs]
        if None not in layers:
            recorded[name] = tuple(map(together, zip(*layers, strict=True)))
    return together(features), BaseModelOutput(**recorded)


def _most_runs(inputs: Inputs, runs: int) -> int:
    """The largest number of runs in a process: all processes must join each run, or others wait for their weights."""
    most = torch.tensor(runs, device=next(iter(inputs.values())).device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    return int(most)


def _cut(inputs: Inputs, rows: list[int], size: Sequence[int]) -> dict[str, torch.Tensor]:
    ends = iter(size)
    return {
        name: inputs[name][rows][(slice(None), *(slice(next(ends)) for _ in inputs[name].shape[1:]))]
        for name in sorted(inputs)
    }
