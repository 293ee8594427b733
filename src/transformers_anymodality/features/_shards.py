"""Shards: files of features in which every change is detected.

store/image/index.json            the tower, how it is read, the preparation of media: all that features depend on
store/image/<hash>.safetensors    (frames, length, dim) by the hash of a medium's content, or (features, dim) if frames
                                  differ; complete if it exists

The header of a shard holds a checksum of each of its features, and the hash of their description (`index.json`). Its name
is a hash of that header. So a flipped byte is detected: in a feature, when it is read; elsewhere, when the file is opened.
"""

import hashlib
import json
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from anymodality.plain.files import read_json

from ..utils.files import write_json, written_whole


FORMAT = 2
_HEADER = ("checksums", "files", "lengths", "store")


class DamagedStoreError(ValueError):
    """A file of a feature store is cut off, changed, missing, or belongs to another store."""

    def __init__(self, path: Path, what: str):
        self.path, self.what = path, f"{path} {what}."
        super().__init__(
            f"{self.what} Run `anymodality features build` again on this store: it renames such files, and computes "
            "their features again."
        )


# --- the description -----------------------------------------------------------------------------------------------------


def read_description(folder: Path) -> dict[str, Any]:
    """What the features of a modality were computed with.

    Raises:
        DamagedStoreError: the file is missing, or has changed since it was written.
        ValueError: an earlier version wrote it.
    """
    path = folder / "index.json"
    try:
        found = read_json(path)
    except FileNotFoundError as error:
        raise DamagedStoreError(path, "is missing, although its folder holds features") from error
    except ValueError as error:
        raise DamagedStoreError(path, f"is damaged ({error})") from error
    if isinstance(found, dict) and found.get("format") in range(FORMAT):
        raise ValueError(
            f"The features in {folder} have format {found['format']}, which has no checksums; this version writes format "
            f"{FORMAT}. Delete the folder, or choose another, and build them again."
        )
    if not isinstance(found, dict) or found.pop("checksum", None) != _hash(found):
        raise DamagedStoreError(path, "is damaged (its content does not match its checksum)")
    return found


def write_description(folder: Path, content: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "index.json", {**content, "checksum": _hash(content)}, sort_keys=True)


def _hash(content: Any) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()


def store_of(folder: Path) -> str:
    """The hash of this folder's description, as its shards hold it."""
    with suppress(DamagedStoreError):
        return _hash(read_description(folder))
    return ""


# --- shards --------------------------------------------------------------------------------------------------------------


def checksum(features: torch.Tensor, lengths: list[int] | None) -> int:
    """Checksum of one medium's features: bytes, dtype and shape, and the number per frame if frames differ."""
    said = f"{features.dtype} {tuple(features.shape)} {lengths}"
    return zlib.crc32(features.reshape(-1).view(torch.uint8).numpy(), zlib.crc32(said.encode()))


class Shard:
    """An open shard; only its header has been read.

    Raises:
        DamagedStoreError: it is cut off, has another format, or its header does not match its name.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._file = safe_open(path, "pt")
        except FileNotFoundError as error:
            raise DamagedStoreError(path, "is missing") from error
        except (SafetensorError, OSError, ValueError) as error:
            raise DamagedStoreError(path, f"is damaged, or is not a safetensors file ({error})") from error
        said = self._file.metadata() or {}
        if said.keys() != set(_HEADER):
            raise DamagedStoreError(path, "is not a file of features of this format")
        if path.stem != _hash(said):
            raise DamagedStoreError(path, "is damaged (its header does not match its name)")
        self._said, self._lengths = said, json.loads(said["lengths"])

    @property
    def checksums(self) -> dict[str, int]:
        """Checksum of each medium's features, by the medium's hash."""
        return json.loads(self._said["checksums"])

    @property
    def files(self) -> dict[str, list]:
        """Path -> `[mtime in ns, size, hash]` of the files of its media."""
        return json.loads(self._said["files"])

    def lengths(self, digest: str) -> list[int] | None:
        """Number of features of each frame of a medium; None if all frames have the same."""
        return self._lengths.get(digest)

    def check_store(self, store: str) -> None:
        if self._said["store"] != store:
            raise DamagedStoreError(self.path, "belongs to another store")

    def get(self, digest: str, expected: int) -> torch.Tensor:
        """A medium's features, checked against the checksum `expected`."""
        try:
            features = self._file.get_tensor(digest)
        except (SafetensorError, ValueError) as error:
            raise DamagedStoreError(self.path, f"is damaged ({error})") from error
        if checksum(features, self.lengths(digest)) != expected:
            raise DamagedStoreError(self.path, f"is damaged ({digest} in it does not match its checksum)")
        return features

    def verify(self) -> None:
        """Reads all features. Raises DamagedStoreError if anything has changed since it was written."""
        checksums = self.checksums
        if checksums.keys() != set(self._file.keys()):
            raise DamagedStoreError(self.path, "is damaged (its header and its features differ)")
        for digest, expected in checksums.items():
            self.get(digest, expected)


def damaged_shards(folder: Path) -> Iterator[DamagedStoreError]:
    """What is wrong in a folder; every byte of its shards is read."""
    store = store_of(folder)
    for path in sorted(folder.glob("*.safetensors")):
        try:
            shard = Shard(path)
            shard.check_store(store)
            shard.verify()
        except DamagedStoreError as error:
            yield error


class ShardWriter:
    """Collects features, and writes a shard whenever there are enough, completely or not at all.

    Args:
        folder: the folder of one modality.
        shard_bytes: size of features from which on a shard is written.
        name: a name of this process, unique among writers.
    """

    def __init__(self, folder: Path, shard_bytes: int, name: str):
        self.folder, self.shard_bytes, self.name = folder, shard_bytes, name
        self.store = store_of(folder)
        self._clear()

    def _clear(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.files: dict[str, list] = {}
        self.lengths: dict[str, list[int]] = {}
        self.size = 0

    def add(self, digest: str, features: torch.Tensor, lengths: list[int], files: dict[str, list]) -> None:
        """Adds `features (features, dim)` of a medium; `lengths`: number of features per frame."""
        features = features.to_dense().resolve_conj().resolve_neg()
        if len(set(lengths)) == 1:
            features = features.unflatten(0, (len(lengths), -1))
        else:
            self.lengths[digest] = lengths
        # A convolutional tower gives (places, channels) as a view of (channels, places), which safetensors refuses.
        self.tensors[digest] = features.cpu().clone(memory_format=torch.contiguous_format)
        self.files |= files
        self.size += features.nbytes
        if self.size >= self.shard_bytes:
            self.flush()

    def flush(self) -> None:
        if not self.tensors:
            return
        sums = {digest: checksum(one, self.lengths.get(digest)) for digest, one in sorted(self.tensors.items())}
        header = {"checksums": sums, "files": self.files, "lengths": self.lengths}
        header = {key: json.dumps(value) for key, value in header.items()} | {"store": self.store}
        with written_whole(self.folder / f"{_hash(header)}.safetensors", self.name) as file:
            save_file(self.tensors, file, header)
        self._clear()
