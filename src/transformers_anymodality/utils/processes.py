"""Work that several processes share: processes of a launcher, and workers that read for one of them."""

import os
from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader


def place_among(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """This process's rank and the number of processes: as given, or as `accelerate launch` and `torchrun` set them."""
    rank = int(os.environ.get("RANK", 0)) if rank is None else rank
    return rank, int(os.environ.get("WORLD_SIZE", 1)) if world_size is None else world_size


def read_ahead(items: Any, read: Callable[[Any], Any], workers: int) -> DataLoader:
    """The results of `read` for each item of a sequence or a torch data set, by `workers` processes; 0: by this one."""
    return DataLoader(items, batch_size=None, num_workers=workers, collate_fn=read)
