"""What tells tensors from others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch


@torch.no_grad()
def tensors_hash(named: Iterable[tuple[str, torch.Tensor]], digest: Any = None) -> str:
    """A hash over names, dtypes, shapes and bytes, in their order; SHA-256 unless told. It does not depend on files."""
    digest = hashlib.sha256() if digest is None else digest
    for name, tensor in named:
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
