"""Shards: files of features, in which nothing changes unseen.

store/image/index.json            the tower, how it is read, the preparation of media: all that features depend on
store/image/<hash>.safetensors    (frames, length, dim) by the hash of a medium's content, or (features, dim) of one whose
                                  frames differ; finished when it is there

The header of a shard holds a checksum of each of its features, and the hash of the description (`index.json`) that they
belong to. Its name is a hash of that header. So a flipped byte shows: in a feature, when it is read; elsewhere, when the
file is opened.
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
    """A file of a feature store is cut off, changed, missing, or of another store."""

    def __init__(self, path: Path, what: str):
        self.path, self.what = path, f"{path} {what}."
        super().__init__(
            f"{self.what} Run `anymodality features build` again on this store: it sets such files aside, and computes "
            "what they held."
        )


# --- the description -----------------------------------------------------------------------------------------------------


def read_description(folder: Path) -> dict[str, Any]:
    """What the features of a modality were computed by.

    Raises:
        DamagedStoreError: the file is missing, or is not as it was written.
        ValueError: an earlier version wrote it.
    """
    path = folder / "index.json"
    try:
        found = read_json(path)
    except FileNotFoundError as error:
        raise DamagedStoreError(path, "is missing, though there are features beside it") from error
    except ValueError as error:
        raise DamagedStoreError(path, f"is damaged ({error})") from error
    if isinstance(found, dict) and found.get("format") in range(FORMAT):
        raise ValueError(
            f"The features in {folder} are of format {found['format']}, which has no checksums; this version writes format "
            f"{FORMAT}. Delete the folder, or choose another, and build them again."
        )
    if not isinstance(found, dict) or found.pop("checksum", None) != _hash(found):
        raise DamagedStoreError(path, "is damaged (its content is not what its checksum says)")
    return found


def write_description(folder: Path, content: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "index.json", {**content, "checksum": _hash(content)}, sort_keys=True)


def _hash(content: Any) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()


def store_of(folder: Path) -> str:
    """The hash of the description that shards in this folder belong to."""
    with suppress(DamagedStoreError):
        return _hash(read_description(folder))
    return ""


# --- shards --------------------------------------------------------------------------------------------------------------


def checksum(features: torch.Tensor, lengths: list[int] | None) -> int:
    """Of one medium's features: their bytes, type and shape, and how many each frame has where these differ."""
    said = f"{features.dtype} {tuple(features.shape)} {lengths}"
    return zlib.crc32(features.reshape(-1).view(torch.uint8).numpy(), zlib.crc32(said.encode()))


class Shard:
    """An open shard, of which its header alone was read.

    Raises:
        DamagedStoreError: it is cut off, is something else, or its header is not what its name says.
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
            raise DamagedStoreError(path, "is damaged (its header is not what its name says)")
        self._said, self._lengths = said, json.loads(said["lengths"])

    @property
    def checksums(self) -> dict[str, int]:
        """Of each medium's features, by its hash."""
        return json.loads(self._said["checksums"])

    @property
    def files(self) -> dict[str, list]:
        """`[mtime in ns, size, hash]` of the files that its media were, by their paths."""
        return json.loads(self._said["files"])

    def lengths(self, digest: str) -> list[int] | None:
        """Features of each frame of a medium, where these differ."""
        return self._lengths.get(digest)

    def check_store(self, store: str) -> None:
        if self._said["store"] != store:
            raise DamagedStoreError(self.path, "belongs to another store")

    def get(self, digest: str, expected: int) -> torch.Tensor:
        """A medium's features, whose checksum is `expected`."""
        try:
            features = self._file.get_tensor(digest)
        except (SafetensorError, ValueError) as error:
            raise DamagedStoreError(self.path, f"is damaged ({error})") from error
        if checksum(features, self.lengths(digest)) != expected:
            raise DamagedStoreError(self.path, f"is damaged: {digest} in it is not what its checksum says")
        return features

    def verify(self) -> None:
        """Reads all of it. Raises DamagedStoreError unless all is as it was written."""
        checksums = self.checksums
        if checksums.keys() != set(self._file.keys()):
            raise DamagedStoreError(self.path, "is damaged (its header names other features than it holds)")
        for digest, expected in checksums.items():
            self.get(digest, expected)


def damaged_shards(folder: Path) -> Iterator[DamagedStoreError]:
    """What is wrong in a folder, of whose shards every byte is read."""
    store = store_of(folder)
    for path in sorted(folder.glob("*.safetensors")):
        try:
            shard = Shard(path)
            shard.check_store(store)
            shard.verify()
        except DamagedStoreError as error:
            yield error


class ShardWriter:
    """Gathers features, and writes a shard whenever there are enough of them: whole, or not at all.

    Args:
        folder: of one modality.
        shard_bytes: of features, from which on a shard is written.
        name: of this process among those that write.
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
        """`features (features, dim)` of a medium; `lengths`: those of each frame."""
        features = features.to_dense().resolve_conj().resolve_neg()
        if len(set(lengths)) == 1:
            features = features.unflatten(0, (len(lengths), -1))
        else:
            self.lengths[digest] = lengths
        # A tower of convolutions gives (places, channels) as a view of (channels, places), which safetensors refuses.
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
