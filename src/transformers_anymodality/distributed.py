"""Which parts must run in every process at every step."""

from __future__ import annotations

import torch
from torch import nn


def must_take_part(module: nn.Module) -> bool:
    """Whether skipping `module` in one process would leave others waiting for its gradients or weights."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    if torch.distributed.get_world_size() == 1:
        return False
    trained = torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters())
    return trained or is_sharded(module)


def is_sharded(module: nn.Module) -> bool:
    """Whether the module's weights are spread over processes (FSDP2's DTensor, FSDP1, DeepSpeed ZeRO-3)."""
    from torch.distributed.tensor import DTensor

    return any(
        isinstance(p, DTensor) or hasattr(p, "ds_id") or type(p).__name__ == "FlatParameter"
        for p in module.parameters()
    )
