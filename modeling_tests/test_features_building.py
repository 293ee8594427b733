"""Building the feature store from files: by the command, by several processes and machines, killed and gone on with."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoProcessor

from anymodality.cli import main
from modeling_tests import tiny
from modeling_tests.docs import lines
from modeling_tests.process_runs import processes
from transformers_anymodality import AnyModalityDataCollator, MediaError
from transformers_anymodality.features import FeatureStore, build_features
from transformers_anymodality.features._fingerprints import Contents
from transformers_anymodality.features.build import _share
from transformers_anymodality.modalities import MODALITIES
from transformers_anymodality.utils.processes import read_ahead


def image_files(folder: Path, count: int) -> list[Path]:
    Image = pytest.importorskip("PIL.Image")
    paths = []
    for i in range(count):
        paths.append(folder / f"{i}.png")
        Image.fromarray(tiny.medium("image", i)).save(paths[-1])
    return paths


def chats(paths: list[Path]) -> list[dict]:
    return [
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image", "path": path.name}, {"type": "text", "text": " what ?"}],
                },
                {"role": "assistant", "content": "yes"},
            ]
        }
        for path in paths
    ]


def test_no_file_is_decoded_nor_read_twice(tmp_path, monkeypatch):
    model, processor = tiny.composite(settings=tiny.modalities("image"))
    paths = image_files(tmp_path, 3)
    build_features(model, processor, chats(paths), tmp_path / "store", media_root=tmp_path, verbose=False)
    monkeypatch.setattr("transformers_anymodality.modalities.image.read_image", lambda *a, **k: pytest.fail("decoded"))
    collator = AnyModalityDataCollator(
        processor, media_root=tmp_path, features=FeatureStore(tmp_path / "store", model)
    )
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", lambda *a: pytest.fail("read, though its time and size are as they were"))
        first = collator(chats(paths))["image_features"]
    os.utime(paths[0])
    paths[1].rename(tmp_path / "moved.png")
    assert torch.equal(collator(chats([paths[0], tmp_path / "moved.png", paths[2]]))["image_features"], first)
    image_files(tmp_path, 9)[8].rename(paths[0])  # another image under the same name
    with pytest.raises(MediaError, match="not in the feature store"):
        collator(chats(paths[:1]))


def test_contents_are_told_apart():
    tell, image, sound = Contents(), MODALITIES["image"], MODALITIES["audio"]
    array = tiny.medium("image")
    assert tell(image, array) == tell(image, array.copy()) != tell(image, array[:, ::-1])
    assert tell(image, array) != tell(image, array.astype(np.int16))
    assert tell(sound, (np.ones(4), 8000)) != tell(sound, (np.ones(4), 16000))
    assert tell(sound, {"array": np.ones(4), "sampling_rate": 8000}) != tell(
        sound, {"array": np.ones(4), "sampling_rate": 1}
    )
    assert tell(image, b"abc") == tell(image, {"bytes": b"abc", "path": None}) != tell(image, b"abd")
    file = open(__file__, "rb")  # noqa: SIM115
    assert tell(image, file) == tell(image, __file__) == tell(image, {"path": __file__}) == tell(image, file)
    Image = pytest.importorskip("PIL.Image")
    assert tell(image, Image.fromarray(array)) == tell(image, Image.fromarray(array))
    assert tell(image, Image.fromarray(array)) != tell(image, Image.fromarray(array).rotate(90))


def test_broken_media_are_named_or_skipped(tmp_path):
    model, processor = tiny.composite(settings=tiny.modalities("image"))
    paths = image_files(tmp_path, 3)
    paths[1].write_bytes(b"no image")
    arguments = (model, processor, chats(paths), tmp_path / "store")
    with pytest.raises(ValueError, match="Sample 1: image 0: .*not an image of a known format"):
        build_features(*arguments, media_root=tmp_path, verbose=False)
    counts = build_features(*arguments, media_root=tmp_path, on_error="skip", verbose=False)
    assert counts == {"image": 2}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model, processor = tiny.composite(settings=tiny.modalities("image"))
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    paths = image_files(folder, 24)
    rows = chats(paths)
    (folder / "chats.jsonl").write_text("\n".join(json.dumps(row) for row in [*rows, *rows[:8]]))
    return folder


def command(folder: Path, store: Path, *more: str) -> list[str]:
    build = ["build", str(folder / "chats.jsonl"), "--model", str(folder / "model"), "--output", str(store)]
    return ["features", *build, "--media-root", str(folder), "--batch-size", "2", *more]


ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


def test_several_processes_build_one_store(checkpoint, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(checkpoint / "model")
    processor = AutoProcessor.from_pretrained(checkpoint / "model")
    rows = [json.loads(line) for line in (checkpoint / "chats.jsonl").read_text().split("\n")]
    arguments = dict(media_root=checkpoint, verbose=False)
    first = build_features(model, processor, rows, tmp_path / "two", rank=0, world_size=2, **arguments)["image"]
    assert 0 < first < 24
    assert build_features(model, processor, rows, tmp_path / "two", rank=1, world_size=2, **arguments) == {"image": 24}
    build_features(model, processor, rows, tmp_path / "one", **arguments)
    one, two = FeatureStore(tmp_path / "one", model), FeatureStore(tmp_path / "two", model)
    assert len(one) == len(two) == 24 and len(list((tmp_path / "two" / "image").glob("*.safetensors"))) == 2
    for digest in one.indexes["image"]:
        torch.testing.assert_close(one.get("image", digest), two.get("image", digest), atol=1e-5, rtol=1e-5)


def test_worker_processes_read_media(checkpoint, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(checkpoint / "model")
    processor = AutoProcessor.from_pretrained(checkpoint / "model")
    rows = chats([Path(f"{i}.png") for i in range(6)])
    counts = build_features(model, processor, rows, tmp_path, workers=2, media_root=checkpoint, verbose=False)
    assert counts == {"image": 6}


def test_the_command(checkpoint, tmp_path, capsys):
    assert main(command(checkpoint, tmp_path, "--dtype", "bfloat16")) == 0
    assert " ".join(capsys.readouterr().out.split()).startswith(f"{tmp_path}: image 24 features")
    assert main(["features", "check", str(tmp_path), "--model", str(checkpoint / "model")]) == 0
    model = AutoModelForCausalLM.from_pretrained(checkpoint / "model")
    store = FeatureStore(tmp_path, model)
    assert {store.get("image", digest).dtype for digest in store.indexes["image"]} == {torch.bfloat16}
    assert main(command(checkpoint, tmp_path)) == 1
    assert "they are bfloat16, not float32" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_in_processes_of_its_own(checkpoint, tmp_path):
    words = command(checkpoint, tmp_path, "--num-processes", "2")
    run = subprocess.run(
        [sys.executable, "-m", "anymodality.cli", *words],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "24 features" in run.stdout and len(list((tmp_path / "image").glob("*.safetensors"))) == 2


# A build whose shards hold one feature each, and that takes its time.
SLOW = """
import sys, time
from anymodality.cli import main
from transformers_anymodality.features._shards import ShardWriter

init, flush = ShardWriter.__init__, ShardWriter.flush
ShardWriter.__init__ = lambda self, folder, shard_bytes, name: init(self, folder, 1, name)
ShardWriter.flush = lambda self: (flush(self), time.sleep(0.3))
sys.exit(main(sys.argv[1:]))
"""


def test_a_killed_build_goes_on(checkpoint, tmp_path, monkeypatch):
    """Killed between shards: what was finished is neither lost nor computed again."""
    store = tmp_path / "store"
    process = subprocess.Popen([sys.executable, "-c", SLOW, *command(checkpoint, store)], env=ENVIRONMENT)
    deadline = time.time() + 120
    while len(list(store.glob("image/*.safetensors"))) < 5 and time.time() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in store.glob("image/*.safetensors")}
    assert 5 <= len(finished) < 24
    encoded = []
    from transformers_anymodality.model.media_encoding import MediaEncodingMixin

    encode = MediaEncodingMixin.encode
    monkeypatch.setattr(
        MediaEncodingMixin,
        "encode",
        lambda self, name, inputs, **recorded: (
            encoded.append(len(inputs["pixel_values"])) or encode(self, name, inputs, **recorded)
        ),
    )
    assert main(command(checkpoint, store)) == 0
    assert sum(encoded) == 24 - len(finished)
    assert all(path.stat().st_mtime_ns == then for path, then in finished.items())
    assert (
        len(FeatureStore(store)) == 24 and not list(store.glob("image/*.tmp")) and not list(store.glob("image/.*tmp"))
    )
    encoded.clear()
    assert main(command(checkpoint, store)) == 0 and not encoded


def test_help_teaches(capsys):
    for words in (["features", "build", "--help"], ["features", "--help"]):
        assert main(words) == 0
    assert "torchrun" in capsys.readouterr().out


@pytest.mark.parametrize("streamed", ["list", "map", "files", "iterator"])
def test_each_process_and_worker_reads_its_own_share(checkpoint, streamed):
    datasets = pytest.importorskip("datasets")
    rows = [{"number": i} for i in range(23)]
    records = {
        "list": rows,
        "map": datasets.Dataset.from_list(rows),
        "files": datasets.Dataset.from_list(rows).to_iterable_dataset(num_shards=4),
        "iterator": iter(rows),
    }[streamed]
    read = []
    for rank in range(2):
        records = iter(rows) if streamed == "iterator" else records
        share = _share(records, rank, 2)
        found = list(read_ahead(share, lambda place: place, workers=2))
        read.append([records[one]["number"] if isinstance(one, int) else one[1]["number"] for one in found])
    assert sorted(read[0] + read[1]) == list(range(23)) and min(map(len, read)) > 7


@pytest.mark.slow
def test_two_machines_build_one_store(checkpoint, tmp_path):
    """As torchrun starts them; streamed, with workers."""
    rows = (checkpoint / "chats.jsonl").read_text().splitlines()
    for part in range(4):
        (checkpoint / f"part{part}.jsonl").write_text("\n".join(rows[part::4]))
    words = command(checkpoint, tmp_path, "--stream", "--workers", "2")
    words[words.index(str(checkpoint / "chats.jsonl"))] = str(checkpoint / "part*.jsonl")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    launch += ["--master_addr", "127.0.0.1", "--master_port", str(port)]
    machines = [
        subprocess.Popen([*launch, "--node_rank", str(rank), "-m", "anymodality.cli", *words], env=ENVIRONMENT)
        for rank in range(2)
    ]
    assert [machine.wait(300) for machine in machines] == [0, 0]
    assert len(FeatureStore(tmp_path)) == 24
    assert len(list((tmp_path / "image").glob("*.safetensors"))) == 2


@pytest.mark.slow
def test_ray_fills_the_same_store(checkpoint, tmp_path):
    """Two actors of a local cluster; the command then finds nothing left to do."""
    pytest.importorskip("ray")
    (tmp_path / "chats").mkdir()
    rows = (checkpoint / "chats.jsonl").read_text().splitlines()
    for part in range(4):
        (tmp_path / "chats" / f"{part}.jsonl").write_text("\n".join(rows[part::4]))
    script = Path(__file__).parents[1] / "examples" / "features_on_ray.py"
    ((_, _, *words),) = [row for row in lines("python") if script.name in row[1]]  # of the documentation
    values = {"chats/*.jsonl": tmp_path / "chats", "my-model": checkpoint / "model", "features/": tmp_path / "ray"}
    values |= {"16": 2, "1": 0}  # actors, GPUs
    words = [str(values.get(word, word)) for word in words] + ["--media_root", str(checkpoint)]
    done = processes([str(script), *words])
    assert done.returncode == 0, done.stderr[-3000:]
    before = set((tmp_path / "ray" / "image").glob("*.safetensors"))
    assert main(command(checkpoint, tmp_path / "ray")) == main(command(checkpoint, tmp_path / "one")) == 0
    assert set((tmp_path / "ray" / "image").glob("*.safetensors")) == before
    ray, one = FeatureStore(tmp_path / "ray"), FeatureStore(tmp_path / "one")
    assert set(ray.indexes["image"]) == set(one.indexes["image"])
    for digest in one.indexes["image"]:
        torch.testing.assert_close(ray.get("image", digest), one.get("image", digest), atol=1e-5, rtol=1e-5)
