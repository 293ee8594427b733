"""The index of the feature store, of many media: it is found, mapped, mended, read where nothing may be written."""

import hashlib
import os
import pickle
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from transformers_anymodality.features._index import Index, mend_index
from transformers_anymodality.features._shards import DamagedStoreError, Shard, ShardWriter
from transformers_anymodality.features.build import _Seen
from transformers_anymodality.utils.files import delete_unfinished


def written(folder: Path, *shards: dict[str, int]) -> Path:
    """A store whose shards hold numbers by digest."""
    folder.mkdir(exist_ok=True)
    for shard in shards:
        writer = ShardWriter(folder, 2**20, "0")
        for digest, number in shard.items():
            known = {f"/media/{number}.png": [number, 2 * number, digest]}
            writer.add(digest, torch.full((1, 1), number), [1], known)
        writer.flush()
    return folder


def digests(*seeds: int) -> list[str]:
    # Zeros at the end, too, which numpy drops from bytes.
    return [hashlib.blake2b(bytes([seed]), digest_size=14).hexdigest() + "0000" for seed in seeds]


def test_the_index_finds_what_shards_hold(tmp_path):
    """New shards are added to it, doubles count once, deleted ones are gone, and it is made again if it is lost."""
    one = dict(zip(digests(*range(40)), range(40), strict=True))
    two = dict(zip(digests(39, 40, 41), (39, 40, 41), strict=True))
    for shard, count in ((one, 40), (two, 42)):
        written(tmp_path / "s", shard)
        for index in (Index(tmp_path / "s"), pickle.loads(pickle.dumps(Index(tmp_path / "s")))):
            assert len(index) == count == len(set(index)) and set(shard) <= set(index)
            for digest, number in shard.items():
                place, checksum = index.place(digest)
                assert digest in index and int(Shard(index.path(place)).get(digest, checksum)) == number
                assert index.file(f"/media/{number}.png") == [number, 2 * number, digest]
            assert digests(99)[0] not in index and index.place("0" * 32) is None and index.file("/x") is None
    before = sorted(index)
    for lost in ("digests.arrow", "files.arrow"):
        (tmp_path / "s" / lost).unlink()
        assert sorted(Index(tmp_path / "s")) == before and (tmp_path / "s" / lost).exists()
    index.path(index.place(digests(0)[0])[0]).unlink()
    with pytest.raises(DamagedStoreError, match="is missing. Run `anymodality features build`"):
        Index(tmp_path / "s")
    mend_index(tmp_path / "s")
    assert set(Index(tmp_path / "s")) == set(two)
    assert sorted(path.suffix for path in (tmp_path / "s").iterdir()) == [".arrow", ".arrow", ".safetensors"]


@pytest.mark.skipif(os.name != "posix", reason="asks whether a process is there")
@pytest.mark.parametrize("kind", ["arrow", "json"])
def test_unfinished_files_of_killed_processes_go(tmp_path, kind):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = [f".{platform.node()}.{process}.{kind}.tmp" for process in (ended.pid, os.getpid())]
    for name in names:
        (tmp_path / name).touch()
    delete_unfinished(tmp_path)
    assert [(tmp_path / name).exists() for name in names] == [False, True]


def test_a_store_that_may_not_be_written_to(tmp_path, monkeypatch):
    written(tmp_path, dict(zip(digests(1, 2), [1, 2], strict=True)))

    def refused(*_):
        raise PermissionError

    monkeypatch.setattr("transformers_anymodality.features._index.written_whole", refused)
    index = Index(tmp_path)
    assert set(index) == set(digests(1, 2)) and index.file("/media/2.png")
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_processes_map_the_index_instead_of_holding_it(tmp_path):
    """Of columns that lie in the file nothing is copied, and what is remembered beside is bounded."""
    written(tmp_path, dict(zip(digests(*range(9)), range(9), strict=True)))
    for index in (Index(tmp_path), Index(tmp_path)):
        for columns in index.tables.values():
            assert not any(values.flags.owndata or values.flags.writeable for values in columns.values())
    seen = _Seen()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers_anymodality.features.build.MOST_REMEMBERED", 3)
        for i in range(10):
            seen.add(i)
            assert i in seen and len(seen) <= 3
