"""Dummy items: inputs for a modality's parts if a batch has none of its media."""

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


def is_among_others() -> bool:
    """Whether there are other processes, which may wait for this one."""
    return _is_distributed() and torch.distributed.get_world_size() > 1


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def must_take_part(module: nn.Module) -> bool:
    """Whether `module` runs at every step, even if a batch has no media of its modality.

    With several processes, trained parts do: others wait for their gradients. So do parts whose weights are sharded: others
    wait for their shards, and the sharding needs their gradients, even in one process.
    """
    if learns(module):
        return is_among_others() or (_is_distributed() and is_sharded(module))
    return is_shared_out(module)


class _Nothing(torch.autograd.Function):
    """Zero; each weight gets zeros as its gradient."""

    @staticmethod
    def forward(ctx: Any, *weights: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(*weights)
        return weights[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.zeros_like(weight) for weight in ctx.saved_tensors)


def is_shared_out(module: nn.Module) -> bool:
    """Whether its weights are sharded over several processes."""
    return is_among_others() and is_sharded(module)


def on_dummy_item(model: Any, modality: str, beside_features: bool = False) -> list[torch.Tensor]:
    """The outputs of parts that must run but have no media, as one tensor; empty if no part must run.

    With stored features, the aligner runs, and the tower has no input. Parts for which no process waits need not run; they
    get the gradients of a dummy item directly. So one process and several learn the same, and a batch without media still
    has a differentiable loss.
    """
    settings, tower, aligner = model.config.modalities[modality], model.tower(modality), model.aligner(modality)
    if beside_features and learns(tower):
        raise ValueError(
            f"Features of {modality!r} were given, but its tower is trained, and cannot learn from stored features. "
            "Freeze it (set_trainable), or train on media, without a feature store."
        )
    runs = must_take_part(tower)
    if not runs and beside_features:
        return []
    if not runs and not must_take_part(aligner):
        own = [part for part, owner in ((tower, settings.tower), (aligner, settings.aligner)) if owner == modality]
        weights = [weight for part in own if learns(part) for weight in part.parameters() if weight.requires_grad]
        return [_Nothing.apply(*weights)] if weights else []
    device = next(aligner.parameters()).device
    if runs:
        inputs = dummy_inputs(settings, device)
        one_is_enough = settings.per_frame and settings.num_frames is not None and not settings.packed
        if one_is_enough:  # the aligner, which is small, gets this frame for each of its frames
            inputs = {name: value[:, :1] for name, value in inputs.items()}
        features, _ = model.encode(modality, inputs)
        features = features.reshape(1, -1, *features.shape[-2:])
        if one_is_enough:
            features = features.expand(-1, settings.num_frames, -1, -1)
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
    if "dtype" in value:  # a mask without padding
        return torch.ones(value["shape"], dtype=getattr(torch, value["dtype"]), device=device)
    return _wave(value["shape"], device)


def _wave(shape: Sequence[int], device: torch.device) -> torch.Tensor:
    """A wave, because normalisation over a constant signal divides by zero."""
    return torch.arange(torch.Size(shape).numel(), device=device).view(*shape).float().sin()
