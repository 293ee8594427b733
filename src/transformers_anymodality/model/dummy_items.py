"""Dummy items: the input of a modality's parts when a batch has none of its media."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..towers import is_trained
from ..utils.tensors import is_sharded
from .configuration import ModalityConfig


def learns(module: nn.Module) -> bool:
    """Whether the module gets gradients in this step."""
    return module.training and torch.is_grad_enabled() and is_trained(module)


def must_take_part(module: nn.Module) -> bool:
    """Whether `module` runs at every step, also where a batch holds none of its modality.

    Parts that learn do: other processes wait for their gradients, and a batch without any media still has a loss that
    can be differentiated. So do parts whose weights are spread over processes: others wait for their shards.
    """
    return learns(module) or is_shared_out(module)


def is_shared_out(module: nn.Module) -> bool:
    """Whether its weights are spread over several processes."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return distributed and torch.distributed.get_world_size() > 1 and is_sharded(module)


def on_dummy_item(model: Any, modality: str, beside_features: bool = False) -> list[torch.Tensor]:
    """What the parts of a composite give that must take part but have nothing to run on, as one tensor; none if no part
    must.

    Beside features that were computed before, the aligner runs, and the tower has nothing.
    """
    settings, tower, aligner = model.config.modalities[modality], model.tower(modality), model.aligner(modality)
    if beside_features and learns(tower):
        raise ValueError(
            f"Features of {modality!r} were given, but its tower is trained, and cannot learn from precomputed "
            "features. Freeze it (set_trainable), or train on media, without a feature store."
        )
    runs = must_take_part(tower)
    if not runs and (beside_features or not must_take_part(aligner)):
        return []
    device = next(aligner.parameters()).device
    if runs:
        features, _ = model.encode(modality, dummy_inputs(settings, device))
        features = features.reshape(1, -1, *features.shape[-2:])
    else:
        shape = (1, settings.num_frames or 1, settings.feature_length or 1, aligner.config.feature_size)
        features = torch.ones(shape, device=device)
    return [features if beside_features else model.align(modality, features)[0]]


def dummy_inputs(settings: ModalityConfig, device: torch.device) -> dict[str, torch.Tensor]:
    """Model inputs of the smallest item."""
    beside = {name: _beside(value, device) for name, value in settings.beside.items()}
    rows = int(torch.tensor(settings.beside[settings.grid]).prod()) if settings.grid else 1
    wave, dtype = _wave((rows, *settings.input_shape), device), getattr(torch, settings.input_dtype)
    values = wave.to(dtype) if dtype.is_floating_point else torch.zeros_like(wave, dtype=dtype)
    return {settings.main_input: values, **beside}


def _beside(value: Any, device: torch.device) -> torch.Tensor:
    if not isinstance(value, dict):
        return torch.tensor(value, device=device)
    if "dtype" in value:  # a mask, under which all is real
        return torch.ones(value["shape"], dtype=getattr(torch, value["dtype"]), device=device)
    return _wave(value["shape"], device)


def _wave(shape: Sequence[int], device: torch.device) -> torch.Tensor:
    """Not constant: normalisation over a constant signal divides by zero."""
    return torch.arange(torch.Size(shape).numel(), device=device).view(*shape).float().sin()
