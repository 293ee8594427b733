"""Which shard holds which features, and which files were hashed: sorted Arrow tables, which processes map and share.

store/image/digests.arrow   digest (16 bytes), shard (its place in the table's metadata), checksum of the features; in the
                            order of digests
store/image/files.arrow     path (16 bytes: a hash of it), mtime (ns), size, digest; in the order of paths

They repeat the headers of the shards. Opening a store adds new shards, so a killed build loses nothing, and either file may
be deleted. A table holds its own checksum; a damaged one is built again.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.files import written_whole
from ..utils.imports import require
from ._shards import Shard, store_of


_HASH, _INT, _CRC, _LONG = "S16", "<i4", "<u4", "<i8"
_TABLES = {
    "digests": {"digest": _HASH, "shard": _INT, "checksum": _CRC},
    "files": {"path": _HASH, "mtime": _LONG, "size": _LONG, "digest": _HASH},
}
# A table of at most so many bytes has its checksum compared whenever it is opened, in 0.1 s at most.
_CHECKED = 2**26
_Columns = dict[str, np.ndarray]
_Shard = tuple[str, int]  # name, bytes


class Index:
    """Features of one modality by their digests, and digests by files. Only its folder is pickled.

    A medium takes 72 bytes of files; a process reads only what it looks up.

    Args:
        folder: with shards, or still without.

    Raises:
        DamagedStoreError: a new shard is damaged or belongs to another store, or a known shard is missing.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        there = {(path.name, path.stat().st_size) for path in folder.glob("*.safetensors")}
        self.shards, self.tables = self._read()
        if lost := sorted(set(self.shards) - there):
            Shard(folder / lost[0][0])  # raises the error
            self.shards, self.tables = _nothing()
        if new := sorted(there.difference(self.shards)):
            self._add(new)
            with suppress(OSError):  # the store is read-only: the tables stay in memory
                self.tables = {name: self._write(name) for name in _TABLES}

    def __reduce__(self) -> tuple:
        return Index, (self.folder,)

    def __len__(self) -> int:
        return len(self.tables["digests"]["digest"])

    def __iter__(self) -> Iterator[str]:
        return (bytes(digest).hex() for digest in self.tables["digests"]["digest"].view("V16"))

    def __contains__(self, digest: str) -> bool:
        return self.place(digest) is not None

    def place(self, digest: str) -> tuple[int, int] | None:
        """The number of the shard that holds these features, and their checksum."""
        columns = self.tables["digests"]
        row = _find(columns["digest"], bytes.fromhex(digest))
        return None if row is None else (int(columns["shard"][row]), int(columns["checksum"][row]))

    def path(self, shard: int) -> Path:
        return self.folder / self.shards[shard][0]

    def file(self, path: str) -> list[Any] | None:
        """`[mtime in ns, size, digest]` of a file that was hashed before, by its absolute path."""
        columns = self.tables["files"]
        row = _find(columns["path"], _of_path(path))
        if row is None:
            return None
        return [
            int(columns["mtime"][row]),
            int(columns["size"][row]),
            bytes(columns["digest"][row]).ljust(16, b"\0").hex(),
        ]

    # --- files -----------------------------------------------------------------------------------------------------

    def _read(self) -> tuple[list[_Shard], dict[str, _Columns]]:
        read = {}
        for name in _TABLES:
            with suppress(OSError, _Unreadable):  # the tables can be built again from the headers of shards
                read[name] = _mapped(self.folder / f"{name}.arrow", name)
        listed = [shards for shards, _ in read.values()]
        # If two processes wrote at once, each may have written one of the two.
        if len(listed) < len(_TABLES) or listed[0] != listed[1]:
            return _nothing()
        return listed[0], {name: columns for name, (_, columns) in read.items()}

    def _add(self, new: list[_Shard]) -> None:
        store, digests, files = store_of(self.folder), [self.tables["digests"]], [self.tables["files"]]
        for code, (name, _) in enumerate(new, len(self.shards)):
            shard = Shard(self.folder / name)
            shard.check_store(store)
            digests.append(_rows("digests", ((bytes.fromhex(one), code, of) for one, of in shard.checksums.items())))
            known = shard.files.items()
            files.append(_rows("files", ((_of_path(path), *how, bytes.fromhex(of)) for path, (*how, of) in known)))
        # For a changed file, a row of the last build counts. If it is of an older one, the file is only hashed again.
        files.reverse()
        self.shards = [*self.shards, *new]
        self.tables = {"digests": _in_order("digests", digests), "files": _in_order("files", files)}

    def _write(self, name: str) -> _Columns:
        """Writes a table, and returns it as mapped from its file."""
        pyarrow = require("pyarrow", "train")
        types = {_HASH: pyarrow.binary(16), _INT: pyarrow.int32(), _CRC: pyarrow.uint32(), _LONG: pyarrow.int64()}
        arrays = {
            column: pyarrow.Array.from_buffers(types[kind], len(values), [None, pyarrow.py_buffer(values)])
            for (column, kind), values in zip(_TABLES[name].items(), self.tables[name].values(), strict=True)
        }
        shards = json.dumps(self.shards)
        said = {"shards": shards, "checksum": str(_checksum(shards.encode(), self.tables[name]))}
        table = pyarrow.table(arrays).replace_schema_metadata(said)
        with written_whole(self.folder / f"{name}.arrow") as file:
            with require("pyarrow.ipc", "train").new_file(str(file), table.schema) as writer:
                writer.write_table(table)
            return _mapped(file, name)[1]


def _nothing() -> tuple[list[_Shard], dict[str, _Columns]]:
    empty = {name: {column: np.empty(0, kind) for column, kind in kinds.items()} for name, kinds in _TABLES.items()}
    return [], empty


class _Unreadable(ValueError):
    """A table that is damaged."""


def _mapped(file: Path, name: str, always_check: bool = False) -> tuple[list[_Shard], _Columns]:
    pyarrow = require("pyarrow", "train")
    try:
        table = require("pyarrow.ipc", "train").open_file(pyarrow.memory_map(str(file))).read_all()
        columns, said = {}, table.schema.metadata
        for column, kind in _TABLES[name].items():
            values = table.column(column).chunk(0).buffers()[1] if len(table) else b""
            columns[column] = np.frombuffer(values, kind)[: len(table)]
        # If the file's schema is damaged, the columns may have any length.
        whole = {len(values) for values in columns.values()} == {len(table)} and table.num_columns == len(columns)
        if not whole or (
            (always_check or table.nbytes <= _CHECKED)
            and int(said[b"checksum"]) != _checksum(said[b"shards"], columns)
        ):
            raise _Unreadable(f"{file} is damaged.")
        return [(shard, size) for shard, size in json.loads(said[b"shards"])], columns
    except FileNotFoundError:
        raise
    except (pyarrow.ArrowException, OSError, LookupError, TypeError, ValueError) as error:
        raise _Unreadable(f"{file} is damaged ({error}).") from error


def _checksum(shards: bytes, columns: _Columns) -> int:
    found = zlib.crc32(shards)
    for values in columns.values():
        found = zlib.crc32(np.ascontiguousarray(values).view("u1"), found)
    return found


def _rows(name: str, rows: Iterable[tuple]) -> _Columns:
    table = np.array([*rows], list(_TABLES[name].items()))
    return {column: table[column] for column in _TABLES[name]}


def _in_order(name: str, pieces: list[_Columns]) -> _Columns:
    """Rows sorted by their first column; of equal rows, the first stays."""
    columns = {column: np.concatenate([piece[column] for piece in pieces]) for column in _TABLES[name]}
    ordered, first = np.unique(next(iter(columns.values())), return_index=True)
    return {column: values[first] if i else ordered for i, (column, values) in enumerate(columns.items())}


def _find(ordered: np.ndarray, key: bytes) -> int | None:
    """The position of `key`, or None."""
    wanted = np.array(key, _HASH)
    place = int(ordered.searchsorted(wanted))
    return place if place < len(ordered) and ordered[place] == wanted else None


def _of_path(path: str) -> bytes:
    return hashlib.blake2b(os.fsencode(path), digest_size=16).digest()


def mend_index(folder: Path) -> None:
    """Deletes tables that are damaged, or that list missing shards: opening the store builds them again."""
    there = {path.name for path in folder.glob("*.safetensors")}
    for name in _TABLES:
        file = folder / f"{name}.arrow"
        try:
            if there.issuperset(shard for shard, _ in _mapped(file, name, always_check=True)[0]):
                continue
        except FileNotFoundError:
            continue
        except _Unreadable:
            pass
        file.unlink(missing_ok=True)
