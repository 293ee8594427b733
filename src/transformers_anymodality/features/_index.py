"""Which shard holds which features, and what files were hashed: Arrow tables in order, which processes map and share.

store/image/digests.arrow   digest (16 bytes), shard (its place in the table's metadata); in the order of digests
store/image/files.arrow     path (16 bytes: a hash of it), mtime (ns), size, digest; in the order of paths

They repeat the headers of the shards. Opening a store adds new shards, so a killed build loses nothing, and either file may
be deleted.
"""

import hashlib
import json
import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.files import open_weights, written_whole
from ..utils.imports import require


_HASH, _INT, _LONG = "S16", "<i4", "<i8"
_TABLES = {
    "digests": {"digest": _HASH, "shard": _INT},
    "files": {"path": _HASH, "mtime": _LONG, "size": _LONG, "digest": _HASH},
}
_Columns = dict[str, np.ndarray]
_Shard = tuple[str, int]  # name, bytes


class Index:
    """Features of one modality by their digests, and digests by files. Pickled by its folder alone.

    A medium takes 68 bytes of files, of which a process reads what it looks up.

    Args:
        folder: with shards, or none yet.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        there = {(path.name, path.stat().st_size) for path in folder.glob("*.safetensors")}
        self.shards, self.tables = self._read()
        if not there.issuperset(self.shards):  # one was deleted, and with it what it held; or is cut off
            self.shards, self.tables = _nothing()
        if new := sorted(there.difference(self.shards)):
            self._add(new)
            with suppress(OSError):  # a store that this process may not write to: the tables stay in memory
                self.tables = {name: self._write(name) for name in _TABLES}

    def __reduce__(self) -> tuple:
        return Index, (self.folder,)

    def __len__(self) -> int:
        return len(self.tables["digests"]["digest"])

    def __iter__(self) -> Iterator[str]:
        return (bytes(digest).hex() for digest in self.tables["digests"]["digest"].view("V16"))

    def __contains__(self, digest: str) -> bool:
        return self.shard(digest) is not None

    def shard(self, digest: str) -> Path | None:
        """The file that holds these features."""
        found = _find(self.tables["digests"], bytes.fromhex(digest))
        return None if found is None else self.folder / self.shards[found["shard"]][0]

    def file(self, path: str) -> list[Any] | None:
        """`[mtime in ns, size, digest]` of a file that was hashed before, by its absolute path."""
        found = _find(self.tables["files"], _of_path(path))
        return found and [int(found["mtime"]), int(found["size"]), found["digest"].ljust(16, b"\0").hex()]

    # --- files -----------------------------------------------------------------------------------------------------

    def _read(self) -> tuple[list[_Shard], dict[str, _Columns]]:
        read = {}
        for name in _TABLES:
            with suppress(FileNotFoundError):
                read[name] = _mapped(self.folder / f"{name}.arrow", name)
        listed = [shards for shards, _ in read.values()]
        # Two processes that wrote at once may each have left one of the two.
        if len(listed) < len(_TABLES) or listed[0] != listed[1]:
            return _nothing()
        return listed[0], {name: columns for name, (_, columns) in read.items()}

    def _add(self, new: list[_Shard]) -> None:
        digests, codes, files = bytearray(), [self.tables["digests"]["shard"]], [self.tables["files"]]
        for code, (name, _) in enumerate(new, len(self.shards)):
            with open_weights(self.folder / name) as shard:
                keys, known = shard.keys(), json.loads((shard.metadata() or {}).get("files", "{}"))
            digests += bytes.fromhex("".join(keys))
            codes.append(np.full(len(keys), code, _INT))
            rows = [(_of_path(path), mtime, size, bytes.fromhex(of)) for path, (mtime, size, of) in known.items()]
            rows = np.array(rows, list(_TABLES["files"].items()))
            files.append({column: rows[column] for column in _TABLES["files"]})
        files.reverse()  # of a file that has changed, the newest row counts
        self.shards = [*self.shards, *new]
        digest = np.concatenate([self.tables["digests"]["digest"], np.frombuffer(bytes(digests), _HASH)])
        self.tables = {
            "digests": _in_order({"digest": digest, "shard": np.concatenate(codes)}),
            "files": _in_order({name: np.concatenate([rows[name] for rows in files]) for name in _TABLES["files"]}),
        }

    def _write(self, name: str) -> _Columns:
        """Writes a table, and gives it as it lies in its file."""
        pyarrow = require("pyarrow", "train")
        types = {_HASH: pyarrow.binary(16), _INT: pyarrow.int32(), _LONG: pyarrow.int64()}
        arrays = {
            column: pyarrow.Array.from_buffers(types[kind], len(values), [None, pyarrow.py_buffer(values)])
            for (column, kind), values in zip(_TABLES[name].items(), self.tables[name].values(), strict=True)
        }
        table = pyarrow.table(arrays).replace_schema_metadata({"shards": json.dumps(self.shards)})
        # Its name among those of other processes, also of other machines.
        with written_whole(self.folder / f"{name}.arrow", f"{platform.node()}.{os.getpid()}") as file:
            with require("pyarrow.ipc", "train").new_file(str(file), table.schema) as writer:
                writer.write_table(table)
            return _mapped(file, name)[1]


def _nothing() -> tuple[list[_Shard], dict[str, _Columns]]:
    empty = {name: {column: np.empty(0, kind) for column, kind in kinds.items()} for name, kinds in _TABLES.items()}
    return [], empty


def _mapped(file: Path, name: str) -> tuple[list[_Shard], _Columns]:
    pyarrow = require("pyarrow", "train")
    table = require("pyarrow.ipc", "train").open_file(pyarrow.memory_map(str(file))).read_all()
    columns = {}
    for column, kind in _TABLES[name].items():
        values = table.column(column).chunk(0).buffers()[1] if len(table) else b""
        columns[column] = np.frombuffer(values, kind)[: len(table)]
    return [(file, size) for file, size in json.loads(table.schema.metadata[b"shards"])], columns


def _in_order(columns: _Columns) -> _Columns:
    """Rows in the order of their first column, of equal ones the first."""
    ordered, first = np.unique(next(iter(columns.values())), return_index=True)
    return {name: values[first] if i else ordered for i, (name, values) in enumerate(columns.items())}


def _find(columns: _Columns, key: bytes) -> dict[str, Any] | None:
    """The row whose first column is `key`."""
    ordered, wanted = next(iter(columns.values())), np.array(key, _HASH)
    place = int(np.searchsorted(ordered, wanted))
    if place == len(ordered) or ordered[place] != wanted:
        return None
    return {name: values[place] for name, values in columns.items()}


def _of_path(path: str) -> bytes:
    return hashlib.blake2b(os.fsencode(path), digest_size=16).digest()
