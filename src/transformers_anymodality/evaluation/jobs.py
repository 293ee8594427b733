"""A task on some data: its records, its samples, and what its answers depend on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..data.files import open_records
from ..utils.tensors import tensors_hash
from .samples import Sample, read_sample
from .tasks import TASKS, Task


@dataclass(frozen=True)
class Job:
    """
    Args:
        kind: a registered task.
        data: file, Hub id, or the records themselves.
        name: in the results; the task's by default.
        prompt: instead of the task's.
        labels: choices of records that have none.
        media_root: folder that relative paths are in.
        limit: of the first samples only.
        split: of a Hub data set.
    """

    kind: str
    data: Any
    name: str = ""
    prompt: str | None = None
    labels: tuple[str, ...] = ()
    media_root: str | None = None
    limit: int | None = None
    split: str = "test"

    def __post_init__(self):
        TASKS[self.kind]  # raises for one that is not registered
        object.__setattr__(self, "name", self.name or self.kind)
        if not re.fullmatch(r"[\w-]+", self.name):
            raise ValueError(f"A task's name in the results has letters, digits, - and _; not {self.name!r}.")

    @property
    def task(self) -> Task:
        return TASKS[self.kind]

    @cached_property
    def records(self) -> Sequence[Any]:
        """The data's records, each read when it is asked for.

        Raises:
            ValueError: there are none.
        """
        is_file = isinstance(self.data, (str, Path))
        records = open_records(self.data, split=self.split) if is_file else self.data
        if self.task.expand is not None:
            records = self.task.expand(records)
        if not len(records):
            raise ValueError(f"{self.name}: {self.data} holds no samples.")
        return records

    @property
    def count(self) -> int:
        return len(self.records) if self.limit is None else min(self.limit, len(self.records))

    def sample(self, index: int) -> Sample:
        return read_sample(
            self.task,
            index,
            self.records[index],
            media_root=self.media_root,
            prompt=self.prompt,
            labels=self.labels,
        )

    def fingerprint(self) -> str:
        """Of the data: a file's content, or what else tells it from others."""
        if not isinstance(self.data, (str, Path)):
            return f"{len(self.data)} records"
        if not Path(self.data).is_file():
            return str(self.data)
        with open(self.data, "rb") as file:
            return f"{Path(self.data).name} sha256:{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"


def model_fingerprint(model: Any) -> str:
    """Of the weights: some of each, so that a model that was trained further is another."""
    state = sorted(model.state_dict().items())
    return tensors_hash((f"{name} {tuple(tensor.shape)}", _some(tensor)) for name, tensor in state)[:16]


def _some(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_meta:  # weights that are kept on disk
        return torch.empty(0, dtype=tensor.dtype)
    return tensor.detach().reshape(-1)[:: max(1, tensor.numel() // 16)][:16]
