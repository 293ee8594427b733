"""Writing a checkpoint tensor by tensor, in shards, so that only one shard is ever in memory."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..utils.files import write_json


class ShardWriter:
    """
    Args:
        folder: where the shards go.
        shard_bytes: a shard is written when it holds as much.
    """

    def __init__(self, folder: Path, shard_bytes: int):
        self.folder, self.shard_bytes = folder, shard_bytes
        self.total, self.parameters = 0, 0
        self._waiting: dict[str, torch.Tensor] = {}
        self._size = 0
        self._shards: list[list[str]] = []

    def add(self, name: str, tensor: torch.Tensor) -> None:
        tensor = tensor.detach().contiguous()
        size = tensor.numel() * tensor.element_size()
        if self._waiting and self._size + size > self.shard_bytes:
            self._flush()
        # A slice of a larger tensor would keep all of it.
        self._waiting[name] = tensor.clone() if tensor.untyped_storage().nbytes() > size else tensor
        self._size += size
        self.total += size
        self.parameters += tensor.numel()

    def _flush(self) -> None:
        self._shards.append(list(self._waiting))
        save_file(self._waiting, self.folder / f"shard-{len(self._shards)}", metadata={"format": "pt"})
        self._waiting, self._size = {}, 0

    def close(self) -> None:
        """Writes what waits, and the index if there are several shards."""
        self._flush()
        count, where = len(self._shards), {}
        for i, names in enumerate(self._shards, start=1):
            stem, suffix = SAFE_WEIGHTS_NAME.rsplit(".", 1)
            file = SAFE_WEIGHTS_NAME if count == 1 else f"{stem}-{i:05d}-of-{count:05d}.{suffix}"
            (self.folder / f"shard-{i}").rename(self.folder / file)
            where |= dict.fromkeys(names, file)
        if count > 1:
            index = {"metadata": {"total_size": self.total}, "weight_map": dict(sorted(where.items()))}
            write_json(self.folder / SAFE_WEIGHTS_INDEX_NAME, index)
