"""Sound that is augmented while training: other speeds in the data, masks in spectrograms; evaluation sees it as it is."""

import importlib
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from peft import get_peft_model
from transformers import ASTConfig, ASTFeatureExtractor, Wav2Vec2FeatureExtractor

from modeling_tests import tiny
from modeling_tests.docs import block
from transformers_anymodality import AnyModalityDataCollator, MediaError, lora_config
from transformers_anymodality.data import at_speeds, load, read_chat
from transformers_anymodality.features import FeatureStore, build_features
from transformers_anymodality.features._fingerprints import Contents
from transformers_anymodality.modalities import MODALITIES, read_audio
from transformers_anymodality.training.augment import spec_augment, spectrograms


ROOT = Path(__file__).parents[1]
MASKS = dict(n_time_masks=1, time_mask_param=60, n_freq_masks=1, freq_mask_param=10)
RATE = 16_000


def samples(*parts: str) -> list[dict]:
    return [{"messages": tiny.chat(*parts, "what ?", seed=i, answer="yes no")} for i in range(3)]


# --- speed -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tone(tmp_path_factory) -> Path:
    """Half a second of 440 Hz."""
    file = tmp_path_factory.mktemp("sound") / "tone.wav"
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE // 2) / RATE), RATE)
    return file


@pytest.mark.parametrize("speed", [0.5, 0.9, 1, 1.1, 2.0])
def test_a_faster_sound_is_shorter_and_higher(tone, speed):
    array = {"array": soundfile.read(tone)[0], "sampling_rate": RATE}
    for source in ({"path": tone}, {"bytes": tone.read_bytes()}, array):
        heard = read_audio({**source, "speed": speed}, RATE)
        assert len(heard) == pytest.approx(RATE / 2 / speed, abs=2)
        spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard)), n=RATE))
        assert spectrum.argmax() == pytest.approx(440 * speed, abs=2)


def test_a_speed_is_as_torchaudio_has_it(tone):
    functional = pytest.importorskip("torchaudio").functional
    samples = soundfile.read(tone, dtype="float32")[0]
    theirs, _ = functional.speed(torch.from_numpy(samples)[None], RATE, 1.1)
    ours = read_audio({"path": tone, "speed": 1.1}, RATE)
    np.testing.assert_allclose(ours[100:-100], theirs[0, 100:-100], atol=2e-4)  # its filter is the flatter one


@pytest.mark.parametrize("speed", [0, 0.4, 2.1, -1, True, "fast", float("nan")])
def test_what_is_no_speed_is_refused(tone, speed):
    with pytest.raises(MediaError, match='"speed"'):
        read_audio({"path": tone, "speed": speed}, RATE)


def test_a_feature_store_tells_speeds_apart(tone):
    contents, spec = Contents(), MODALITIES["audio"]
    sources = [tone, {"path": tone}, {"path": tone, "speed": 0.9}, {"path": tone, "speed": 1.1}]
    assert len({contents(spec, source) for source in sources}) == 3


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("in_column", [False, True])
def test_training_data_has_each_sound_at_each_speed(tmp_path, tone, streaming, in_column):
    part = {"type": "audio", **({} if in_column else {"path": tone.name})}
    asked = {"role": "user", "content": [part, {"type": "text", "text": "what ?"}]}
    answer = {"role": "assistant", "content": "yes"}
    records = [{"messages": [asked, answer], **({"audio": [tone.name]} if in_column else {})}]
    records += [{"messages": [{"role": "user", "content": "what ?"}, answer]}]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    chats = load(tmp_path / "chats.jsonl", media_root=tone.parent, streaming=streaming)
    heard = [read_chat(i, row).checked().media.get("audio") for i, row in enumerate(at_speeds(chats, (0.9, 1, 1.1)))]
    assert heard[3] is None and len(heard) == 4
    lengths = [len(read_audio(one, RATE)) for sounds in heard[:3] for one in sounds]
    assert lengths == pytest.approx([RATE / 2 / speed for speed in (0.9, 1, 1.1)], abs=2)
    with pytest.raises(ValueError, match="from 0.5 to 2"):
        at_speeds(chats, (0.9, 11))


# --- masks -----------------------------------------------------------------------------------------------------------


def ast() -> dict:
    config = ASTConfig(
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        num_mel_bins=16,
        max_length=64,
    )
    extractor = ASTFeatureExtractor(num_mel_bins=16, max_length=64)
    return {"audio": {"tower": config, "processor": extractor, "aligner": "linear", "num_tokens": 2}}


@pytest.mark.parametrize("settings", [tiny.modalities("audio"), ast()], ids=["whisper", "ast"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "peft"])
def test_spectrograms_are_masked_in_training_alone(settings, wrapped):
    model, processor = tiny.composite(settings=settings)
    (name, bands) = spectrograms(processor)["audio"]
    batch = AnyModalityDataCollator(processor)(samples("audio"))
    seen = []
    model.tower("audio").register_forward_pre_hook(
        lambda module, args, inputs: seen.append((args[0] if args else inputs[name]).clone()), with_kwargs=True
    )
    whole = get_peft_model(model, lora_config(model, r=2)) if wrapped else model
    handle = spec_augment(whole, processor, **MASKS)
    whole.train()(**batch)
    whole(**batch)
    with torch.no_grad():
        whole(**batch)
    whole.eval()(**batch)
    handle.remove()
    whole.train()(**batch)
    given = batch[name]
    axis = given.shape.index(bands)
    for masked in seen[:2]:
        changed = masked != given
        assert changed.any() and not changed.all() and masked.isfinite().all()
        assert changed.flatten(1).any(1).all()  # of each sound
        bands_of, frames_of = (changed.all(dim=over) for over in (3 - axis, axis))
        assert bands_of.sum(-1).max() <= 10 and frames_of.sum(-1).max() <= 60
    assert not torch.equal(seen[0], seen[1])
    assert all(torch.equal(one, given) for one in seen[2:]) and len(seen) == 5


def test_what_holds_no_spectrogram_is_refused(tmp_path):
    waves = {"tower": tiny.wav2vec2_config(), "processor": Wav2Vec2FeatureExtractor(return_attention_mask=True)}
    for settings in (tiny.modalities("image"), {"audio": {**waves, "aligner": "linear"}}):
        with pytest.raises(ValueError, match="no tower of this model reads them"):
            spec_augment(*tiny.composite(settings=settings), **MASKS)
    model, processor = tiny.composite(settings=tiny.modalities("audio"))
    build_features(model, processor, samples("audio"), tmp_path, verbose=False)
    batch = AnyModalityDataCollator(processor, features=FeatureStore(tmp_path, model))(samples("audio"))
    spec_augment(model, processor, **MASKS)
    with pytest.raises(ValueError, match="stored features of 'audio'"):
        model.train()(**batch)
    model.eval()(**batch)


# --- recipes and documentation -----------------------------------------------------------------------------------------


def test_recipes_augment_training_data_alone(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    recipe, small = importlib.import_module("recipe"), importlib.import_module("small_data")
    monkeypatch.chdir(tmp_path)
    small.main([])
    model, processor = tiny.composite(settings=tiny.modalities("audio"))
    file = "outputs/small/audio.jsonl"
    data = recipe.DataArguments(file, file, "outputs/small", speeds=[0.9, 1.0, 1.1], spec_augment=MASKS)
    arguments = recipe.TrainingArguments("out", use_cpu=True, report_to="none")
    trainer = recipe.make_trainer(model, processor, data, arguments)
    assert (len(trainer.train_dataset), {len(one) for one in trainer.eval_dataset.values()}) == (12, {4})
    assert model._forward_pre_hooks
    model, processor = tiny.composite(settings=tiny.modalities("image"))
    with pytest.raises(SystemExit, match="reads no sound"):
        recipe.make_trainer(model, processor, data, arguments)


def test_the_block_of_the_docs_runs(tmp_path, monkeypatch, tone):
    monkeypatch.chdir(tmp_path)
    model, processor = tiny.composite(settings=tiny.modalities("audio"))
    model.save_pretrained("my-model", processor=processor)
    messages = [
        {"role": "user", "content": [{"type": "audio", "path": str(tone)}, {"type": "text", "text": "what ?"}]},
        {"role": "assistant", "content": "yes"},
    ]
    Path("mine.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    Path("block.py").write_text(block("train.md", "spec_augment"))
    runpy.run_path("block.py")
    assert Path("tuned").is_dir()
