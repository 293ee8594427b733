"""Parts whose weights are spread over processes: how they are known, and built before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ..utils.upstream import without_deepspeed


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
