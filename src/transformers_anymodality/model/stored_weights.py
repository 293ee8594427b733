"""Checks weights on disk: complete files, the model's kind of numbers, and only finite values.

float64, float32, float16 and bfloat16 are converted into each other. Integers, booleans, complex numbers and 8-bit floats
are refused for floating-point weights, unless the model was quantised that way.
"""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from anymodality.plain.files import shard_names, stored_tensors

from ..utils.checked import ConfigError
from ..utils.upstream import get_checkpoint_shard_files


_CONVERTED = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def some(names: Collection[str], limit: int = 5) -> str:
    return ", ".join(sorted(names)[:limit]) + (", ..." if len(names) > limit else "")


def weight_files(source: Any, hub: dict[str, Any]) -> list[Path]:
    """The safetensors files of a checkpoint, fetched if needed. Empty if its files have another format.

    Raises:
        ConfigError: the index names a file outside the checkpoint.
    """
    if not isinstance(source, (str, os.PathLike)):
        return []
    lenient = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    index = cached_file(source, SAFE_WEIGHTS_INDEX_NAME, **lenient, **hub)
    if index is None:
        single = cached_file(source, SAFE_WEIGHTS_NAME, **lenient, **hub)
        return [] if single is None else [Path(single)]
    for name in shard_names(index):
        if not name.endswith(".safetensors") or os.path.basename(name) != name:
            raise ConfigError(f"{index} names {name!r}, which is not a safetensors file of this checkpoint.")
    shards, _ = get_checkpoint_shard_files(source, index, **hub)
    return [Path(shard) for shard in shards]


def stored_dtypes(files: list[Path]) -> dict[str, torch.dtype]:
    """The dtype of each tensor. Raises ValueError, which names the file, if one is cut off or missing."""
    found = {}
    for file in files:
        if not file.is_file():
            raise ConfigError(f"{file} is missing, although the checkpoint's index names it.")
        for name, dtype, _, _ in stored_tensors(file):
            # Dtypes that torch does not have are refused like complex numbers.
            found[name] = getattr(torch, dtype, torch.complex64)
    return found


def check_weights(model: nn.Module, stored: dict[str, torch.dtype]) -> None:
    """Raises ConfigError for weights that are stored as another kind of number, and for weights and rotary frequencies that
    are not finite."""
    wrong, broken = [], []
    buffers = {name for name, _ in model.named_buffers()}
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        own = stored.get(name)
        if own is None and name in buffers:
            if name.endswith("inv_freq") and not value.is_meta and not value.isfinite().all():
                raise ConfigError(
                    f"`rope_parameters` in config.json give {name} that is not finite: they are invalid."
                )
            continue
        if own is not None and not _converts(own, value, name in buffers):
            wrong.append(f"{name} ({str(own).removeprefix('torch.')})")
        elif not _is_finite(value, name in buffers):
            broken.append(name)
    for names, what in ((wrong, "of a kind of number that is not converted"), (broken, "with NaN or infinity")):
        if names:
            raise ConfigError(f"Weights {what} ({len(names)}): {some(names)}.")


def _converts(stored: torch.dtype, value: torch.Tensor, is_buffer: bool) -> bool:
    if stored == value.dtype:
        return True
    if value.is_floating_point():
        return stored in _CONVERTED
    return not is_buffer or not (stored.is_floating_point or stored.is_complex)


@torch.no_grad()
def _is_finite(value: torch.Tensor, is_buffer: bool) -> bool:
    """Also True for weights that are not loaded (offloaded, on the meta device) or are quantised."""
    value = getattr(value, "to_local", lambda: value)()
    plain = type(value) in (torch.Tensor, nn.Parameter) and value.is_floating_point()
    if not plain or value.is_meta or not value.numel():
        return True
    value = value.detach().float() if value.itemsize == 1 else value.detach()
    if value.sum().isfinite():  # a value that is not finite changes the sum
        return True
    lowest, highest = torch.aminmax(value)
    if is_buffer:  # masks are infinite
        return not bool(lowest.isnan())
    return bool(lowest.isfinite() and highest.isfinite())
