"""Helpers for tensors and modules: hashes, temporary eval mode and dtype, padding, sharding."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import nn


@contextmanager
def in_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Train or eval mode within; afterwards each submodule has its own mode again."""
    modes = [(one, one.training) for one in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for one, mode in modes:
            one.training = mode


def in_eval(module: nn.Module) -> AbstractContextManager[None]:
    return in_mode(module, training=False)


@contextmanager
def in_dtype(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Computes in `dtype` within. Afterwards the original tensors are back: nothing is rounded."""
    kept = [(one, one.data) for one in chain(module.parameters(), module.buffers()) if one.is_floating_point()]
    for one, data in kept:
        one.data = data.to(dtype)
    try:
        yield
    finally:
        for one, data in kept:
            one.data = data


def padded_together(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors with the same number of axes, concatenated; shorter ones are padded with zeros in every other axis."""
    longest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    missing = ([want - have for want, have in zip(longest, part.shape[1:], strict=True)] for part in parts)
    ends = [[end for axis in reversed(one) for end in (0, axis)] for one in missing]
    return torch.cat([nn.functional.pad(part, end) for part, end in zip(parts, ends, strict=True)])


def padded_to_multiple(inputs: dict[str, torch.Tensor], multiple: int) -> dict[str, torch.Tensor]:
    """Inputs `(items, steps, ...)`, padded with zeros to the next multiple of steps; inputs with another number of steps
    than the first stay unchanged."""
    steps = next(iter(inputs.values())).shape[1:2]
    return {
        name: nn.functional.pad(value, (0, 0) * (value.ndim - 2) + (0, -steps[0] % multiple))
        if value.shape[1:2] == steps
        else value
        for name, value in inputs.items()
    }


def is_sharded(module: nn.Module) -> bool:
    """Whether the module's weights are sharded over processes (FSDP2's DTensor, FSDP1, DeepSpeed ZeRO-3)."""
    from torch.distributed.tensor import DTensor

    return any(
        isinstance(p, DTensor) or hasattr(p, "ds_id") or type(p).__name__ == "FlatParameter"
        for p in module.parameters()
    )


@torch.no_grad()
def tensors_hash(named: Iterable[tuple[str, torch.Tensor]], digest: Any = None) -> str:
    """A hash over names, dtypes, shapes and bytes, in order; SHA-256 by default. It does not depend on files."""
    digest = hashlib.sha256() if digest is None else digest
    for name, tensor in named:
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def row_counts(sizes: torch.Tensor) -> torch.Tensor:
    """`(frames,)`: the products of rows of sizes, such as grids `(frames, 3)`; numbers `(frames,)` stay as they are."""
    return sizes.prod(-1) if sizes.ndim > 1 else sizes


def are_grids(sizes: torch.Tensor, patches: torch.Tensor) -> bool:
    """Whether the products of rows of sizes `(frames, 2 or 3)` add up to the number of patches: rows, or squares that are
    side by side, `(1, channels, side, patches * side)`."""
    if sizes.ndim != 2 or sizes.is_floating_point():
        return False
    count = int(row_counts(sizes).sum())
    beside = patches.ndim == 4 and len(patches) == 1 and patches.shape[3] == count * patches.shape[2]
    return count > 1 and (count == len(patches) or beside)
