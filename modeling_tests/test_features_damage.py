"""The feature store under faults: what is torn, flipped, foreign or missing is named, and built again; nothing else changes."""

import json
import os
import random
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from anymodality.cli import main
from modeling_tests import tiny
from transformers_anymodality import AnyModalityDataCollator
from transformers_anymodality.features import FeatureStore, build_features
from transformers_anymodality.features._index import Index
from transformers_anymodality.features._shards import DamagedStoreError, Shard, ShardWriter


DIGESTS = [f"{number:032x}" for number in range(1, 9)]
WHAT_TO_DO = "Run `anymodality features build` again"


def samples(count: int = 6) -> list[dict]:
    return [{"messages": tiny.chat("image", "imu", "what ?", seed=i, answer="yes")} for i in range(count)]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    model, processor = tiny.composite(settings=tiny.modalities("image", "imu"))
    return model, processor, build(model, processor, folder / "store")


def build(model, processor, folder: Path, rows: list[dict] | None = None, **more) -> Path:
    build_features(model, processor, rows or samples(), folder, batch_size=1, shard_bytes=4000, verbose=False, **more)
    return folder


@pytest.fixture
def copy(built, tmp_path):
    return Path(shutil.copytree(built[2], tmp_path / "store"))


def content(folder: Path, model=None) -> dict[str, torch.Tensor]:
    """All that is read from a store."""
    store = FeatureStore(folder, model)
    return {f"{name} {digest}": store.get(name, digest) for name, index in store.indexes.items() for digest in index}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# --- damage --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["*.safetensors", "index.json", "*.arrow"])
def test_no_flipped_bit_passes(built, copy, kind):
    """It is named, or, in what the index repeats, mended at once; no feature is ever another."""
    model, _, folder = built
    rng, right, unseen = random.Random(0), content(folder, model), 0
    files = sorted(copy.glob(f"image/{kind}"))
    for _ in range(40):
        file = rng.choice(files)
        whole = bytearray(file.read_bytes())
        whole[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        before = file.read_bytes()
        file.write_bytes(whole)
        try:
            assert same(content(copy, model), right), file
            unseen += 1
        except ValueError as error:
            assert file.name in str(error) and (WHAT_TO_DO in str(error) or "have format" in str(error)), error
        file.write_bytes(before)
    assert unseen == 0 or kind == "*.arrow"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def damage_header(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:8] + b"?" + whole[9:])


def damage_feature(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))


DAMAGES = {
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "junk": lambda path: path.write_bytes(os.urandom(500)),
    "header": damage_header,
    "feature": damage_feature,
    "missing": Path.unlink,
    "renamed": lambda path: path.rename(path.with_name("0123456789abcdef.safetensors")),
}


@pytest.mark.parametrize("file", ["shard", "index.json", "digests.arrow", "files.arrow"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_named_and_built_again(built, copy, damage, file, capfd):
    model, processor, folder = built
    right = content(folder, model)
    path = next(copy.glob("image/*.safetensors")) if file == "shard" else copy / "image" / file
    if file != "shard" and damage == "renamed":
        pytest.skip("the same as missing")
    DAMAGES[damage](path)
    if file.endswith(".arrow"):
        assert same(content(copy, model), right)  # shards say it again
    else:
        with pytest.raises(DamagedStoreError, match=WHAT_TO_DO) as caught:
            content(copy, model)
        assert path.name in str(caught.value) or damage == "renamed"
    build(model, processor, copy)
    assert same(content(copy, model), right)
    FeatureStore(copy, model).verify()


def test_features_of_another_store_are_foreign(built, copy, tmp_path):
    model, processor, folder = built
    right = content(folder, model)
    other, _ = tiny.composite(settings=tiny.modalities("image", "imu"))
    next(other.image_tower.parameters()).data.add_(1e-2)
    build(other, processor, tmp_path / "other")
    shutil.copy(foreign := next((tmp_path / "other").glob("image/*.safetensors")), copy / "image")
    with pytest.raises(DamagedStoreError, match=f"{foreign.name} belongs to another store"):
        FeatureStore(copy, model)
    torch.save(1, copy / "imu" / "x.safetensors")
    build(model, processor, copy)
    assert same(content(copy, model), right)
    assert {path.name for path in copy.glob("*/*.damaged")} == {f"{foreign.name}.damaged", "x.safetensors.damaged"}


def test_an_earlier_format_is_refused_by_name(built, copy):
    model, processor, _ = built
    (copy / "image" / "index.json").write_text('{"format": 1, "dtype": "float32"}')
    for use in (lambda: FeatureStore(copy, model), lambda: build(model, processor, copy)):
        with pytest.raises(ValueError, match="image have format 1, which has no checksums"):
            use()


def test_the_command_checks_every_feature(built, copy, capsys):
    assert main(["features", "check", str(copy), "--verify"]) == 0
    damage_feature(path := next(copy.glob("imu/*.safetensors")))
    assert main(["features", "check", str(copy)]) == 0
    assert main(["features", "check", str(copy), "--verify"]) == 1
    assert f"{path.name} is damaged" in capsys.readouterr().err


# --- building ------------------------------------------------------------------------------------------------------------


def test_two_builders_of_one_rank(built, tmp_path):
    model, processor, _ = built

    def rows():
        yield samples(2)[0]
        with pytest.raises(ValueError, match="Another process builds .*image as rank 0"):
            build(model, processor, tmp_path)
        build(model, processor, tmp_path, samples(1), rank=1, world_size=1)
        yield samples(2)[1]

    build(model, processor, tmp_path, rows())
    build(model, processor, tmp_path)  # the lock is free again
    assert len(FeatureStore(tmp_path, model)) == 12


def test_a_full_disk_names_the_file_and_leaves_the_store(built, tmp_path):
    """By the largest size that a file may have."""
    model, processor, folder = built
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    build(model, processor, tmp_path / "s", samples(2))
    before = content(tmp_path / "s", model)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, usual[1]))
        with pytest.raises(OSError, match=r"\.safetensors could not be written: .*[Ff]ile too large"):
            build(model, processor, tmp_path / "s")
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, usual[1]))
        with pytest.raises(OSError, match=r"index\.json could not be written"):
            build(model, processor, tmp_path / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".tmp"]
    assert same(content(tmp_path / "s", model), before)
    build(model, processor, tmp_path / "s")
    build(model, processor, tmp_path / "new")
    assert same(content(tmp_path / "s", model), content(folder, model))
    assert same(content(tmp_path / "new", model), content(folder, model))


def test_towers_that_give_no_numbers_are_refused(tmp_path):
    model, processor = tiny.composite(settings=tiny.modalities("image"))
    next(model.image_tower.parameters()).data.fill_(float("inf"))
    with pytest.raises(ValueError, match="The tower of 'image' gives NaN or infinity"):
        build(model, processor, tmp_path, [{"messages": tiny.chat("image", "what ?", answer="yes")}])


def layouts(values: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "transposed": values.T,
        "every other": values[:, ::2],
        "expanded": values[:1].expand(5, 6),
        "part": values[1:, 2:5],
        "channels last": values.view(1, 2, 2, 6).contiguous(memory_format=torch.channels_last)[0, 0],
        "reversed": values.flip(0),
        "sparse": values.to_sparse(),
    }


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.bool]
)
def test_features_of_any_layout_and_type_are_stored(tmp_path, dtype):
    values = torch.arange(24.0).view(4, 6)
    expected = layouts(values)
    del expected["sparse"]
    writer = ShardWriter(tmp_path, 2**20, "0")
    cast = {name: one.to(dtype) for name, one in expected.items()}
    if dtype == torch.float32:
        cast["sparse"] = expected["sparse"] = values.to_sparse()
    for digest, features in zip(DIGESTS, cast.values(), strict=False):
        writer.add(digest, features, [len(features)], {})
    writer.flush()
    index = Index(tmp_path)
    for digest, features in zip(DIGESTS, cast.values(), strict=False):
        number, checksum = index.place(digest)
        stored = Shard(index.path(number)).get(digest, checksum)
        assert stored.dtype == dtype and torch.equal(stored[0].float(), features.to_dense().float())


def test_small_features_are_read_fast(tmp_path):
    """20,000 in a second of a processor's time, each with its checksum."""
    (tmp_path / "image").mkdir()
    store = FeatureStore.__new__(FeatureStore)
    writer = ShardWriter(tmp_path / "image", 2**18, "0")
    digests = [f"{number * 2**99:032x}" for number in range(1, 2001)]
    for digest in digests:
        writer.add(digest, torch.full((4, 32), 1.0), [4], {})
    writer.flush()
    store.indexes, store._open = {"image": Index(tmp_path / "image")}, {}
    rng, speeds = random.Random(0), []
    for _ in range(5):
        wanted, started = rng.choices(digests, k=2000), time.process_time()
        for digest in wanted:
            store.get("image", digest)
        speeds.append(2000 / (time.process_time() - started))
    assert max(speeds) > 20_000, speeds


# --- every modality, from media to training ------------------------------------------------------------------------------


def test_training_from_a_store_of_every_modality_is_that_from_media(tmp_path):
    """Through the commands, with a checkpoint and files, as in the quickstart."""
    model, processor = tiny.composite()
    model.save_pretrained(tmp_path / "model", processor=processor)
    rows = []
    for number in range(2):
        for name in processor.modalities:
            rows.append({"messages": tiny.chat(name, "what ?", seed=number, answer="yes no")})
    rows = [saved_as_files(row, tmp_path / f"{number}") for number, row in enumerate(rows)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["features", "build", str(tmp_path / "chats.jsonl"), "--model", str(tmp_path / "model")]
    assert main([*words, "--output", str(tmp_path / "store"), "--batch-size", "1"]) == 0
    store = FeatureStore(tmp_path / "store", model)
    assert {name: len(index) for name, index in store.indexes.items()} == dict.fromkeys(processor.modalities, 2)
    collators = AnyModalityDataCollator(processor), AnyModalityDataCollator(processor, features=store)
    media, stored = (losses(collator, rows) for collator in collators)
    assert stored == pytest.approx(media, abs=1e-6) and len(set(media)) == len(media)


def saved_as_files(row: dict, path: Path) -> dict:
    from PIL import Image

    for part in row["messages"][0]["content"]:
        if (name := part["type"]) == "text":
            continue
        medium, kind = part.pop(name), {"image": "png", "video": "gif", "audio": "wav"}.get(name, "npy")
        part["path"] = str(path.with_suffix(f".{kind}"))
        if kind == "npy":
            np.save(part["path"], medium)
        elif name == "audio":
            soundfile.write(part["path"], medium / 8, 16_000)
        else:
            first, *others = [Image.fromarray(one) for one in (medium if name == "video" else [medium])]
            more = {"save_all": True, "append_images": others, "duration": 100} if others else {}
            first.save(part["path"], **more)
    return row


def losses(collator, rows: list[dict]) -> list[float]:
    """Of training the aligners, one sample a step."""
    model, _ = tiny.composite()
    trained = [p for name, p in model.named_parameters() if "aligner" in name]
    optimizer, seen = torch.optim.SGD(trained, lr=0.1), []
    for row in rows:
        loss = model(**collator([row])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(loss.item())
    return seen
