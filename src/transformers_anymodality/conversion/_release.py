"""The files of a release, read tensor by tensor: safetensors, or torch's format without running what is in it."""

from collections.abc import Iterator, Mapping
from math import isqrt
from pathlib import Path
from typing import Any

import torch

from anymodality.plain.files import read_json, shard_names

from ..utils.files import open_weights


SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
# What a folder's own weights are called, by those who released it.
_MAIN = ("model", "pytorch_model", "weights")
# Training scripts wrap the tensors in a dict.
_WRAPPERS = ("model", "state_dict", "module")


class Tensors(Mapping[str, torch.Tensor]):
    """Name -> tensor over one or several files of one model. They are mapped: what is read is not kept in memory."""

    def __init__(self, *files: Path):
        self.files = files
        self._readers: dict[str, Mapping[str, torch.Tensor]] = {}
        for file in files:
            tensors = _safetensors(file) if file.suffix == ".safetensors" else _torch_tensors(file)
            self._readers |= dict.fromkeys(tensors, tensors)

    @classmethod
    def joined(cls, *sources: "Tensors") -> "Tensors":
        """Several as one, for rules that need tensors of more than one."""
        tensors = cls()
        for source in sources:
            tensors.files += source.files
            tensors._readers |= dict.fromkeys(source, source)
        return tensors

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._readers:
            raise ValueError(f"{self.files[0].name} lacks {name!r}, which this system needs. Is it another release?")
        return self._readers[name][name]

    def __contains__(self, name: object) -> bool:
        return name in self._readers

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self[name].shape)

    def count(self, pattern: str) -> int:
        """How many layers there are: one more than the greatest number that stands for `{}` in names that begin so."""
        before, after = pattern.split("{}")
        numbers = [n[len(before) :].split(".")[0] for n in self if n.startswith(before) and after in n]
        return 1 + max((int(number) for number in numbers if number.isdigit()), default=-1)

    def vit_sizes(self, patches: str, positions: str, layers: str) -> dict[str, int]:
        """Fields of a ViT's config.

        Args:
            patches, positions: names of the convolution over patches, and of the positions with the class token's.
            layers: beginning of the layers' names.
        """
        size, _, patch, _ = self.shape(patches)
        return {
            "hidden_size": size,
            "patch_size": patch,
            "image_size": patch * isqrt(self.shape(positions)[-2] - 1),
            "num_hidden_layers": self.count(f"{layers}.{{}}.mlp.fc1.weight"),
            "intermediate_size": self.shape(f"{layers}.0.mlp.fc1.weight")[0],
        }


def _safetensors(file: Path) -> dict[str, torch.Tensor]:
    with open_weights(file) as weights:
        return {name: weights.get_tensor(name) for name in weights.keys()}


def _torch_tensors(file: Path) -> dict[str, torch.Tensor]:
    load = {"map_location": "cpu", "weights_only": True}
    try:
        found = torch.load(file, mmap=True, **load)  # noqa: TID251 (releases come so; nothing in them is run)
    except RuntimeError:  # the format of before torch 1.6 cannot be mapped
        found = torch.load(file, **load)  # noqa: TID251
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


class Release:
    """A folder as it was released (or one file of it)."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not self.folder.exists():
            raise FileNotFoundError(f"{self.folder} does not exist: give the folder with the released files.")
        self.config: dict[str, Any] = self.config_of(".")

    def has(self, name: str) -> bool:
        return bool(self._files(name))

    def open(self, *names: str) -> Tensors:
        """The tensors of the first of these that is there: a file's name without its suffix, or a sub-folder's; `"."`
        is the folder's own model, or the one file that was given."""
        for name in names:
            if files := self._files(name):
                return Tensors(*files)
        found = ", ".join(sorted(path.name for path in self.folder.iterdir())) if self.folder.is_dir() else "one file"
        raise FileNotFoundError(
            f"{self.folder} has none of {', '.join(names)} (as {', '.join(SUFFIXES)}, an index of shards, or a folder). "
            f"It has {found or 'nothing'}."
        )

    def config_of(self, name: str) -> dict[str, Any]:
        """`config.json` of a sub-folder, or of the folder itself ("."); empty where there is none."""
        file = self.folder / name / "config.json"
        return read_json(file) if file.is_file() else {}

    def _files(self, name: str) -> list[Path]:
        if name == "." and self.folder.is_file():
            return [self.folder]
        place = self.folder / name
        if place.is_dir():
            return next((files for main in _MAIN if (files := _model_files(place / main))), [])
        return _model_files(place)


def _model_files(stem: Path) -> list[Path]:
    """`stem` with a suffix, or the shards that its index names."""
    for suffix in SUFFIXES:
        if (file := stem.with_name(stem.name + suffix)).is_file():
            return [file]
        if (index := stem.with_name(f"{stem.name}{suffix}.index.json")).is_file():
            return [index.parent / shard for shard in shard_names(index)]
    return []
