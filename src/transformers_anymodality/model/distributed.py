"""Which parts must run in every process at every step, and how parts come to be before they are spread over processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..utils.upstream import without_deepspeed


def is_trained(module: nn.Module) -> bool:
    """Whether any weight of it gets a gradient."""
    return any(parameter.requires_grad for parameter in module.parameters())


def must_take_part(module: nn.Module) -> bool:
    """Whether `module` runs at every step, also where a batch holds none of its modality.

    Trained parts do: other processes wait for their gradients, and a batch without any media still has a loss that
    can be differentiated. So do parts whose weights are spread over processes: others wait for their shards.
    """
    trained = module.training and torch.is_grad_enabled() and is_trained(module)
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return trained or (distributed and torch.distributed.get_world_size() > 1 and is_sharded(module))


def is_sharded(module: nn.Module) -> bool:
    """Whether the module's weights are spread over processes (FSDP2's DTensor, FSDP1, DeepSpeed ZeRO-3)."""
    from torch.distributed.tensor import DTensor

    return any(
        isinstance(p, DTensor) or hasattr(p, "ds_id") or type(p).__name__ == "FlatParameter"
        for p in module.parameters()
    )


@contextmanager
def built_whole() -> Iterator[None]:
    """Within, models are built and loaded whole in each process, also if DeepSpeed ZeRO-3 is to spread them afterwards.

    Transformers else spreads each weight as soon as there is one, and many models cannot be built so (Whisper's positions
    are computed from a shape that is none then); nor can parts be tried, cut and grown.
    """
    with without_deepspeed():
        yield
