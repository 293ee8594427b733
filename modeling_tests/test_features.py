"""The feature store: what is read from it is what the towers gave, and nothing else."""

import hashlib
import json
import os
import pickle
import platform
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    Trainer,
    TrainingArguments,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
)

from anymodality.cli import main
from modeling_tests import tiny
from modeling_tests.docs import lines
from modeling_tests.process_runs import processes
from transformers_anymodality import AnyModalityDataCollator, MediaError, set_trainable
from transformers_anymodality.features import FeatureStore, build, build_features
from transformers_anymodality.features._fingerprints import Contents
from transformers_anymodality.features._index import Index, mend_index
from transformers_anymodality.features._shards import DamagedStoreError, Shard, ShardWriter
from transformers_anymodality.features.build import _Seen, _share, load_towers
from transformers_anymodality.modalities import MODALITIES
from transformers_anymodality.utils.files import delete_unfinished
from transformers_anymodality.utils.processes import read_ahead


KINDS = [
    ("image", "what ?"),
    ("audio", "and", "image", "what ?"),
    ("what ?",),
    ("imu", "depth", "what ?"),
    ("video", "what ?"),
]


def samples(count: int = 10) -> list[dict]:
    return [{"messages": tiny.chat(*KINDS[i % len(KINDS)], seed=i, answer="yes no")} for i in range(count)]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A composite with all modalities, and the store of its `samples`."""
    folder = tmp_path_factory.mktemp("store")
    model, processor = tiny.composite()
    counts = build_features(model, processor, samples(), folder, batch_size=3, verbose=False)
    assert counts == {"audio": 2, "depth": 2, "image": 4, "imu": 2, "thermal": 0, "video": 2}
    return model, processor, folder


def loss_and_gradients(model, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.train()
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# --- the same numbers --------------------------------------------------------------------------------------------------


def test_losses_and_gradients_are_those_of_media(built):
    """Up to rounding, as towers were run on other batches; features themselves are exact, see below."""
    model, processor, folder = built
    set_trainable(model, "aligners", verbose=False)
    read, stored = (
        AnyModalityDataCollator(processor),
        AnyModalityDataCollator(processor, features=FeatureStore(folder, model)),
    )
    for rows in (samples()[:5], samples()[5:], samples()[1:2]):
        media, features = read(rows), stored(rows)
        assert not {"pixel_values", "input_features", "imu_values", "pixel_values_videos"} & features.keys()
        for name in ("input_ids", "labels", "attention_mask"):
            assert torch.equal(media[name], features[name])
        (loss, gradients), (own, ours) = loss_and_gradients(model, media), loss_and_gradients(model, features)
        torch.testing.assert_close(own, loss, atol=1e-6, rtol=1e-6)
        assert ours.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(ours[name], gradient, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_batches_of_the_same_media_they_are_the_same_bits(tmp_path, dtype):
    """What the tower gave is what comes back; and where it ran on the very batch of training, so is the loss."""
    model, processor = tiny.composite(settings=tiny.modalities("image"))
    model.to(dtype)
    set_trainable(model, "aligners", verbose=False)
    rows = [{"messages": tiny.chat("image", "what ?", seed=i, answer="yes")} for i in range(4)]
    build_features(model, processor, rows, tmp_path, batch_size=4, verbose=False)
    media = AnyModalityDataCollator(processor)(rows)
    features = AnyModalityDataCollator(processor, features=FeatureStore(tmp_path, model))(rows)
    assert features["image_features"].dtype == dtype
    assert torch.equal(features["image_features"], model.get_image_features(media["pixel_values"]).last_hidden_state)
    (loss, gradients), (own, ours) = loss_and_gradients(model, media), loss_and_gradients(model, features)
    assert torch.equal(loss, own) and all(torch.equal(gradients[name], ours[name]) for name in gradients)


def test_another_dtype_leaves_the_model_as_it_was(tmp_path):
    model, processor = tiny.composite()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = [{"messages": tiny.chat("image", "audio", "what ?", seed=i, answer="yes")} for i in range(2)]
    build_features(model, processor, rows, tmp_path, dtype=torch.bfloat16, verbose=False)
    store = FeatureStore(tmp_path, model)
    assert {store.get("image", digest).dtype for digest in store.indexes["image"]} == {torch.bfloat16}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {torch.float32}


def test_recordings_of_any_length_are_stored_without_padding(tmp_path):
    config = Wav2Vec2Config(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, feat_extract_norm="layer",
        conv_dim=(16, 16), conv_kernel=(10, 8), conv_stride=(5, 4), num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2, vocab_size=10,
    )  # fmt: skip
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True, sampling_rate=1000)
    settings = {
        "audio": {
            "tower": config,
            "processor": extractor,
            "aligner": {"type": "mlp", "pool": "stride", "pool_size": 4},
        }
    }
    model, processor = tiny.composite(settings=settings)
    rows = []
    for seed, length in enumerate((400, 900, 400, 650)):
        sound = np.random.default_rng(seed).standard_normal(length).astype(np.float32)
        content = [{"type": "audio", "audio": sound}, {"type": "text", "text": " what ?"}]
        rows.append({"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "yes"}]})
    build_features(model, processor, rows, tmp_path, verbose=False)
    media = AnyModalityDataCollator(processor)(rows)
    features = AnyModalityDataCollator(processor, features=FeatureStore(tmp_path, model))(rows)
    assert torch.equal(media["audio_feature_lengths"], features["audio_feature_lengths"])
    assert torch.equal(media["input_ids"], features["input_ids"])
    torch.testing.assert_close(model(**features).loss, model(**media).loss, atol=1e-5, rtol=1e-5)


def test_media_of_many_sizes_do_not_fill_memory(monkeypatch):
    """Recordings have nearly as many lengths as there are of them, and few wait until the end."""
    held = encoded = most = 0

    def media():
        nonlocal held, most
        for number in range(200):
            inputs = {"audio_values": torch.zeros(1, 100 + number % 90)}
            held += inputs["audio_values"].nbytes
            most = max(most, held)
            yield [("audio", f"{number}", inputs, {})], 0

    def encode(model, writer, modality, batch):
        nonlocal held, encoded
        held -= sum(inputs["audio_values"].nbytes for _, inputs, _ in batch)
        encoded += len(batch)

    monkeypatch.setattr(build, "_encode", encode)
    monkeypatch.setattr(build, "_MOST_HELD", 8000)
    writer = SimpleNamespace(flush=lambda: None)
    assert build._run(None, media(), {"audio": writer}, batch_size=2) == 0
    assert encoded == 200 and not held and most < 9000


def test_trainer_learns_from_a_store(built, tmp_path):
    _, processor, folder = built
    losses = []
    for features in (None, FeatureStore(folder)):
        model, _ = tiny.composite()
        set_trainable(model, "aligners", verbose=False)
        arguments = TrainingArguments(
            str(tmp_path), max_steps=3, per_device_train_batch_size=4, remove_unused_columns=False, report_to="none",
            save_strategy="no", logging_steps=1, use_cpu=True, disable_tqdm=True, dataloader_num_workers=1,
        )  # fmt: skip
        collator = AnyModalityDataCollator(processor, features=features)
        run = Trainer(model, arguments, train_dataset=samples(), data_collator=collator)
        run.train()
        losses.append([entry["loss"] for entry in run.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


# --- what a store is of --------------------------------------------------------------------------------------------------


def change_weights(model, processor):
    next(model.image_tower.parameters()).data.add_(1e-3)


def change_config(model, processor):
    model.config.image_config.layer_norm_eps = 1e-3


def change_reading(model, processor):
    model.config.modalities["image"].select_feature = "patches"


def change_processor(model, processor):
    processor.image_processor.image_mean = (0.1, 0.2, 0.3)


def change_options(model, processor):
    processor.modalities["video"].options["num_frames"] = 2


@pytest.mark.parametrize(
    "change, message",
    [
        (change_weights, "features of '(depth|image)'.*its tower has other weights"),
        (change_config, "its tower's config has other layer_norm_eps"),
        (change_reading, "features of 'image'.*its tower is read with other select_feature"),
        (change_processor, "features of '(depth|image)'.*prepared in another way: image_mean"),
        (change_options, "features of 'video'.*prepared in another way: options"),
    ],
)
def test_what_has_changed_is_named(built, change, message):
    _, _, folder = built
    model, processor = tiny.composite()
    FeatureStore(folder, model)
    change(model, processor)
    with pytest.raises(ValueError, match=message):
        store = FeatureStore(folder, model)
        AnyModalityDataCollator(processor, features=store)(samples()[:2])
    with pytest.raises(ValueError, match="of another model"):
        build_features(model, processor, samples(), folder, verbose=False)


def test_what_stays_the_same_is_accepted(built, tmp_path):
    """A trained aligner, a reloaded checkpoint, weights that were cast."""
    model, processor, folder = built
    model, _ = tiny.composite()
    next(model.image_aligner.parameters()).data.add_(1)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
        store = FeatureStore(folder, again)
        batch = AnyModalityDataCollator(AutoProcessor.from_pretrained(tmp_path), features=store)(samples()[:4])
        assert "image_features" in batch and torch.isfinite(again(**batch).loss)


def test_towers_are_loaded_without_the_language_model(built, tmp_path):
    model, processor, folder = built
    model.save_pretrained(tmp_path)
    towers = load_towers(tmp_path)
    assert sum(p.numel() for p in towers.language_model.parameters()) < 20_000
    FeatureStore(folder, towers)


def test_a_trained_tower_is_refused(built):
    _, processor, folder = built
    model, _ = tiny.composite()
    set_trainable(model, ["aligners", "image_tower"], verbose=False)
    batch = AnyModalityDataCollator(processor, features=FeatureStore(folder, model))(samples()[:1])
    with pytest.raises(ValueError, match="tower is trained, and cannot learn"):
        model.train()(**batch)
    model.eval()(**batch)


def test_random_preparation_is_refused(tmp_path):
    model, processor = tiny.composite(settings=tiny.modalities("image"))
    stock = type(processor.image_processor)

    class Flipping(stock):
        def __call__(self, images, **kwargs):
            return super().__call__([i.transpose(0) if torch.rand(()) < 0.5 else i for i in images], **kwargs)

    processor.image_processor.__class__ = Flipping
    with pytest.raises(ValueError, match=r"prepared at random \(augmentation\)"):
        build_features(model, processor, samples(1), tmp_path, on_error="skip", verbose=False)


def test_media_that_are_not_there(built, tmp_path):
    model, processor, folder = built
    new = [{"messages": tiny.chat("image", "what ?", seed=77, answer="yes")}]
    with pytest.raises(MediaError, match="(?s)Sample 1.*is not in the feature store.*augmentation"):
        AnyModalityDataCollator(processor, features=FeatureStore(folder, model))([*samples()[:1], *new])
    reading = AnyModalityDataCollator(processor, features=FeatureStore(folder, model, missing="read"))
    assert "pixel_values" in reading(new) and "image_features" in reading(samples()[:1])
    with pytest.raises(FileNotFoundError, match="holds no features"):
        FeatureStore(tmp_path)


def test_modalities_that_are_not_in_the_store_are_read(tmp_path):
    model, processor = tiny.composite()
    build_features(model, processor, samples(), tmp_path, modalities=["image"], verbose=False)
    batch = AnyModalityDataCollator(processor, features=FeatureStore(tmp_path, model))(samples()[:2])
    assert {"image_features", "input_features"} <= batch.keys() and "pixel_values" not in batch


# --- files -----------------------------------------------------------------------------------------------------------------


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


# --- many media ------------------------------------------------------------------------------------------------------------


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
