"""The feature store: what is read from it is what the towers gave, and nothing else."""

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

from modeling_tests import tiny
from transformers_anymodality import AnyModalityDataCollator, MediaError, set_trainable
from transformers_anymodality.features import FeatureStore, build, build_features
from transformers_anymodality.features.build import load_towers


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


def change_mask(model, processor):
    model.config.modalities["image"].marks_padding = "attention_mask"


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
        (change_mask, "features of 'image'.*its tower is read with other marks_padding"),
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
    towers = load_towers(tmp_path.parent, subfolder=tmp_path.name)
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
