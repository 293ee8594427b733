"""`examples/real`: made-up files in each format that package indexes carry become models and data sets; nothing leaks."""

import importlib
import io
import json
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    AutoTokenizer,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from modeling_tests import tiny
from modeling_tests.gguf_files import write_language_model
from transformers_anymodality import compose
from transformers_anymodality.data.records import read_chat
from transformers_anymodality.modalities import MODALITIES, MediaError
from transformers_anymodality.modalities.signal import read_signal


EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def real():
    """The package's modules by name."""
    sys.path.insert(0, str(EXAMPLES))
    names = (
        "convert ctranslate2 data dictation emoji fetch motion noise recordings sentences splits stamps voices".split()
    )
    yield type("real", (), {name: importlib.import_module(f"real.{name}") for name in names})
    sys.path.remove(str(EXAMPLES))


# --- fetching ---------------------------------------------------------------------------------------------------------


def wheel(file: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def package(file: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(file, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def client(real, monkeypatch, tmp_path):
    """Parts whose client is a script; each run adds a line to the log that is returned."""
    log = tmp_path / "log"
    script = f"import sys, pathlib, zipfile; open({str(log)!r}, 'a').write(sys.argv[1] + '\\n')\n"
    script += "if sys.argv[1] == 'broken': sys.exit('no such package')\n"
    script += "zipfile.ZipFile('a.whl', 'w').writestr('inside.txt', sys.argv[1])"
    parts = {name: real.fetch.Part("pip", (name,), "1", "MIT", "tests", 1) for name in ("good", "broken", "absent")}
    monkeypatch.setattr(real.fetch, "PARTS", parts)
    commands = {"absent": ["no-such-client"]}
    command = property(lambda part: commands.get(part.packages[0]) or [sys.executable, "-c", script, part.packages[0]])
    monkeypatch.setattr(real.fetch.Part, "command", command)
    return log


def test_what_cannot_be_fetched_is_named_with_its_command_and_the_rest_is_there(real, client, tmp_path, capsys):
    result = real.fetch.fetch(output=tmp_path / "parts")
    assert set(result.folders) == {"good"} and set(result.missing) == {"broken", "absent"}
    assert (result.folders["good"] / "inside.txt").read_text() == "good"
    assert "`no-such-client` needs" in result.missing["absent"]
    assert "failed (no such package)" in result.missing["broken"] and " broken`" in result.missing["broken"]
    said = capsys.readouterr().out
    assert "broken: left out" in said and "good: downloaded in" in said
    assert real.fetch.fetch(["good"], tmp_path / "parts").folders == result.folders
    assert client.read_text().split() == ["good", "broken"]  # once each
    with pytest.raises(ValueError, match="No part other; there are good, broken, absent"):
        real.fetch.fetch(["other"], tmp_path)


def test_what_cannot_be_unpacked_leaves_no_folder(real, client, tmp_path):
    folder = tmp_path / "parts" / "downloads" / "good"
    folder.mkdir(parents=True)
    (folder / "a.whl").write_bytes(b"half of a file")
    result = real.fetch.fetch(["good"], tmp_path / "parts")
    assert not result.folders and "cannot be unpacked" in result.missing["good"]
    assert not (tmp_path / "parts" / "raw" / "good").exists() and not list((tmp_path / "parts" / "raw").iterdir())


def test_archives_are_unpacked_and_write_nothing_outside(real, tmp_path):
    members = {"package/a.txt": b"a", "package/b/c.txt": b"c"}
    for suffix, write in {".whl": wheel, ".tgz": package}.items():
        write(tmp_path / f"good{suffix}", members)
        folder = tmp_path / suffix
        folder.mkdir()
        real.fetch.unpack(tmp_path / f"good{suffix}", folder)
        assert (folder / "package" / "b" / "c.txt").read_bytes() == b"c"
    wheel(tmp_path / "bad.whl", {"../outside.txt": b"x"})
    real.fetch.unpack(tmp_path / "bad.whl", tmp_path / ".whl")
    package(tmp_path / "bad.tgz", {"../outside.txt": b"x"})
    with pytest.raises(tarfile.OutsideDestinationError):
        real.fetch.unpack(tmp_path / "bad.tgz", tmp_path / ".tgz")
    assert not (tmp_path / "outside.txt").exists()


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_debian_packages_are_unpacked(real, tmp_path):
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: one\nVersion: 1\nArchitecture: all\nMaintainer: Me <me@me.me>\nDescription: one\n"
    )
    (tree / "usr").mkdir()
    (tree / "usr" / "a.txt").write_text("a")
    subprocess.run(["dpkg-deb", "--build", tree, tmp_path / "one.deb"], check=True, capture_output=True)
    real.fetch.unpack(tmp_path / "one.deb", tmp_path / "out")
    assert (tmp_path / "out" / "usr" / "a.txt").read_text() == "a"
    (tmp_path / "two.deb").write_bytes(b"no package")
    with pytest.raises((subprocess.CalledProcessError, tarfile.TarError)):
        real.fetch.unpack(tmp_path / "two.deb", tmp_path / "out")


def test_the_table_names_every_part(real):
    lines = real.fetch.table().splitlines()
    assert len(lines) == 2 + len(real.fetch.PARTS) and all(line.count("|") == 6 for line in lines)
    assert "`npm pack --silent openmoji@17.0.0`" in real.fetch.table()
    assert {part for kind in real.data.DATASETS.values() for part in (*kind[1], *kind[2])} <= set(real.fetch.PARTS)
    assert {part for part, _ in real.convert.FOLDERS.values()} <= set(real.fetch.PARTS)


# --- weights ----------------------------------------------------------------------------------------------------------


def ct2_string(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def write_ct2(
    file: Path, variables: dict[str, np.ndarray], aliases: dict[str, str], spec: str = "WhisperSpec"
) -> None:
    """CTranslate2's version 6, as its `model_spec.py` writes it."""
    kinds = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
    data = struct.pack("<I", 6) + ct2_string(spec) + struct.pack("<II", 3, len(variables))
    for name, values in variables.items():
        data += ct2_string(name) + struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)
        data += struct.pack("<BI", kinds[str(values.dtype)], values.nbytes) + values.tobytes()
    data += struct.pack("<I", len(aliases))
    file.write_bytes(data + b"".join(ct2_string(a) + ct2_string(b) for a, b in aliases.items()))


def ct2_variables(model: WhisperForConditionalGeneration) -> dict[str, np.ndarray]:
    """A Whisper's weights under CTranslate2's names; projections of one input are stacked."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    out = {}

    def norm(target, source):
        out[f"{target}/gamma"], out[f"{target}/beta"] = state[f"{source}.weight"], state[f"{source}.bias"]

    def linear(target, *sources):
        weights = [state[f"{source}.weight"] for source in sources]
        zeros = [np.zeros(len(weight), np.float32) for weight in weights]
        biases = [state.get(f"{source}.bias", zero) for source, zero in zip(sources, zeros, strict=True)]
        out[f"{target}/weight"], out[f"{target}/bias"] = np.concatenate(weights), np.concatenate(biases)

    for side, count in (("encoder", model.config.encoder_layers), ("decoder", model.config.decoder_layers)):
        for i in range(count):
            to, of = f"{side}/layer_{i}", f"model.{side}.layers.{i}"
            norm(f"{to}/self_attention/layer_norm", f"{of}.self_attn_layer_norm")
            linear(f"{to}/self_attention/linear_0", *(f"{of}.self_attn.{name}_proj" for name in "qkv"))
            linear(f"{to}/self_attention/linear_1", f"{of}.self_attn.out_proj")
            if side == "decoder":
                norm(f"{to}/attention/layer_norm", f"{of}.encoder_attn_layer_norm")
                linear(f"{to}/attention/linear_0", f"{of}.encoder_attn.q_proj")
                linear(f"{to}/attention/linear_1", *(f"{of}.encoder_attn.{name}_proj" for name in "kv"))
                linear(f"{to}/attention/linear_2", f"{of}.encoder_attn.out_proj")
            norm(f"{to}/ffn/layer_norm", f"{of}.final_layer_norm")
            linear(f"{to}/ffn/linear_0", f"{of}.fc1")
            linear(f"{to}/ffn/linear_1", f"{of}.fc2")
        norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        out[f"{side}/position_encodings/encodings"] = state[f"model.{side}.embed_positions.weight"]
    linear("encoder/conv1", "model.encoder.conv1")
    linear("encoder/conv2", "model.encoder.conv2")
    out["decoder/embeddings/weight"] = state["model.decoder.embed_tokens.weight"]
    return out


WORDS = [f"<|{name}|>" for name in ("startoftranscript", "startofprev", "notimestamps", "endoftext")]


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> tuple[Path, WhisperForConditionalGeneration]:
    """A folder as CTranslate2's converter leaves it, and the model in it."""
    folder, sizes = tmp_path_factory.mktemp("released"), dict(encoder_layers=1, decoder_layers=2, d_model=64)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    heads = dict.fromkeys((f"{side}_attention_heads" for side in ("encoder", "decoder")), 1)
    inner = dict.fromkeys((f"{side}_ffn_dim" for side in ("encoder", "decoder")), 32)
    last = len(alphabet) + len(WORDS) - 1
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"), last)
    config = WhisperConfig(
        vocab_size=last + 1, num_mel_bins=80, max_target_positions=24, **sizes, **heads, **inner, **ids
    )
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config).eval()
    tiny.spread(model)
    write_ct2(folder / "model.bin", ct2_variables(model), {"decoder/projection/weight": "decoder/embeddings/weight"})
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate([*alphabet, *WORDS])}, []))
    tokenizer.add_special_tokens(WORDS)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    told = {"suppress_ids": [1, 2], "suppress_ids_begin": [3], "alignment_heads": [[0, 0]]}
    (folder / "config.json").write_text(json.dumps(told))
    return folder, model


def test_a_whisper_of_ctranslate2_is_transformers_own(real, released, tmp_path):
    folder, model = released
    real.convert.whisper(folder, tmp_path)
    loaded, info = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    processor = AutoProcessor.from_pretrained(tmp_path)
    inputs = processor(np.ones(8000, np.float32), sampling_rate=16000, return_tensors="pt")
    said = loaded.generate(inputs.input_features, max_new_tokens=5)
    assert not set(said.flatten().tolist()) & {1, 2}  # what the release suppresses
    assert isinstance(processor.batch_decode(said, skip_special_tokens=True)[0], str)
    assert processor.tokenizer.decode(processor.tokenizer("ab")["input_ids"], skip_special_tokens=True) == "ab"
    compose(tiny.language_model(), {"audio": {"tower": str(tmp_path), "aligner": "mlp"}}, tokenizer=tiny.tokenizer())


def test_hearing_is_whisper_for_ten_seconds(real, released, tmp_path):
    folder, model = released
    real.convert.hearing(folder, tmp_path)
    encoder, whole = AutoModel.from_pretrained(tmp_path).encoder.eval(), model.model.encoder
    sound = AutoFeatureExtractor.from_pretrained(tmp_path)(np.ones(8000), sampling_rate=16000, return_tensors="pt")
    assert sound.input_features.shape == (1, 80, 1000)
    hidden = encoder(sound.input_features).last_hidden_state
    positions = whole.embed_positions.weight[:500]
    assert torch.equal(encoder.embed_positions.weight, positions) and hidden.shape == (1, 500, 64)
    assert {name for name, _ in encoder.named_parameters()} == {name for name, _ in whole.named_parameters()}


def test_eight_bit_weights_are_scaled_and_other_files_refused(real, released, tmp_path):
    folder, model = released
    variables = ct2_variables(model)
    name = "encoder/layer_0/ffn/linear_0/weight"
    scale = (127 / np.abs(variables[name]).max(axis=1)).astype(np.float32)
    exact = variables[name]
    variables[name] = np.rint(exact * scale[:, None]).astype(np.int8)
    variables[f"{name}_scale"] = scale
    write_ct2(tmp_path / "model.bin", variables, {})
    found = real.ctranslate2.whisper_from(tmp_path / "model.bin").model.encoder.layers[0].fc1.weight
    assert np.abs(found.detach().numpy() - exact).max() <= 0.51 / scale.min()
    write_ct2(tmp_path / "model.bin", variables, {}, spec="TransformerSpec")
    with pytest.raises(ValueError, match="holds a TransformerSpec, not Whisper"):
        real.ctranslate2.whisper_from(tmp_path / "model.bin")
    del variables["decoder/layer_1/ffn/linear_0/bias"]
    write_ct2(tmp_path / "model.bin", variables, {})
    with pytest.raises(KeyError, match="decoder/layer_1/ffn/linear_0/bias"):
        real.ctranslate2.whisper_from(tmp_path / "model.bin")


def test_a_language_model_in_gguf_becomes_a_folder(real, tmp_path):
    (tmp_path / "raw").mkdir()
    write_language_model(tmp_path / "raw" / "one.gguf")
    real.convert.language_model(tmp_path / "raw", tmp_path / "out")
    expected = AutoModelForCausalLM.from_pretrained(tmp_path / "raw", gguf_file="one.gguf").state_dict()
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and all(torch.equal(model.state_dict()[name], expected[name]) for name in expected)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").decode([5]) == "ab"
    write_language_model(tmp_path / "raw" / "two.gguf")
    with pytest.raises(FileNotFoundError, match="holds 2 files"):
        real.convert.language_model(tmp_path / "raw", tmp_path / "other")


def test_an_efficientnet_becomes_a_tower(real, tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0").eval()
    weights = {f"_blocks.{i}": tensor for i, tensor in enumerate(model.state_dict().values())}
    torch.save(weights, tmp_path / "weights.pth")
    real.convert.efficientnet(tmp_path, tmp_path / "out")
    found = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    pixels = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(found.eval()(pixels).logits, model(pixels))
    assert found.config.id2label[292] == "tiger (292)" and len(found.config.label2id) == 1000
    language = tiny.language_model()
    settings = {"image": {"tower": str(tmp_path / "out"), "aligner": "mlp"}}
    _, processor = compose(language, settings, tokenizer=tiny.tokenizer())
    assert processor.sub_processor("image").image_mean == pytest.approx([0.5] * 3)
    weights.popitem()
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="shorter"):
        real.convert.efficientnet(tmp_path, tmp_path / "other")


def test_a_conversion_that_fails_leaves_no_folder(real, tmp_path, monkeypatch):
    def half(raw, target):
        (target / "config.json").write_text("{}")
        raise OSError("disk full")

    raw = real.fetch.Fetched({"smollm2": tmp_path})
    monkeypatch.setattr(real.convert, "fetch", lambda names, output: raw)
    monkeypatch.setitem(real.convert.FOLDERS, "language_model", ("smollm2", half))
    with pytest.raises(OSError, match="disk full"):
        real.convert.convert(["language_model"], tmp_path / "parts")
    assert not list((tmp_path / "parts").iterdir())
    monkeypatch.setattr(real.convert, "fetch", lambda names, output: real.fetch.Fetched(missing={"smollm2": "no"}))
    assert real.convert.convert(["language_model"], tmp_path / "parts") == {}


# --- data sets --------------------------------------------------------------------------------------------------------


def test_what_is_named_alike_is_on_one_side(real):
    captions = ["A bison.", "An American bison.", "Bison", "A yak.", "The moon.", "A red moon!", "A kite."]
    names = [real.splits.normalised(caption) for caption in captions]
    assert names[:3] == ["bison", "american bison", "bison"]
    groups = ["animals"] * 4 + ["space", "toys", "toys"]
    cluster = real.splits.clusters(names, groups)
    assert cluster[0] == cluster[1] == cluster[2]
    assert len(set(cluster)) == 5  # a moon of another group is another
    assert len(set(real.splits.clusters(names, groups, [[None, None, None, "x", "y", "z", "x"]]))) == 4
    many = real.splits.assign(list(range(200)))
    assert {split: many.count(split) for split in many} == {"train": 140, "validation": 20, "test": 40}
    assert many == real.splits.assign(list(range(200)))
    assert set(real.splits.assign([0] * 30 + list(range(1, 71)))[:30]) == {"train"}


def sound(file: Path, seed: int = 0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, np.random.default_rng(seed).uniform(-0.5, 0.5, (900, 2)), 44100)


def picture(file: Path, seed: int, mode: str = "RGBA") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 4), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(file)


THINGS = "badger bell boat cake chair clock cloud crab drum eagle frog guitar hammer hat horn key lamp lion mouse owl".split()


def make_stamps(raw: Path) -> None:
    root = raw / "usr" / "share" / "tuxpaint" / "stamps"
    for i, thing in enumerate(THINGS):
        folder = root / ("animals" if i % 2 else "things") / "inner"
        picture(folder / f"{thing}.png", i, "P" if i % 3 == 0 else "RGBA")
        (folder / f"{thing}.txt").write_text(f"A {thing}.\nes.utf8=Un {thing}.\nxx.utf8=Nothing.\nfr.utf8=\n")
        sound(folder / f"{thing}_desc_es.ogg", i)
        if i % 4 == 0:
            sound(folder / f"{thing}.ogg", 100 + i)
            sound(folder / f"{thing}_desc.ogg", 200 + i)
    (root / "animals" / "lion2.svg").write_text("<svg/>")
    (root / "animals" / "lion2.txt").write_text("The lion")
    picture(root / "symbols" / "7.png", 50)
    sound(root / "symbols" / "7.ogg", 51)
    (root / "symbols" / "7.txt").write_text("Seven.")
    (root / "symbols" / "alone.txt").write_text("Neither picture nor drawing.")


def test_stamps_are_split_by_caption(real, tmp_path):
    make_stamps(tmp_path)
    splits = real.stamps.load(tmp_path)
    stamps = {stamp["id"]: (split, stamp) for split, items in splits.items() for stamp in items}
    assert len(stamps) == len(THINGS) + 2 and all(splits.values())
    assert stamps["animals/lion2"][0] == stamps["animals/inner/lion"][0]
    assert stamps["animals/lion2"][1]["image"] is None
    assert stamps["symbols/7"][1]["sound"] is None  # it is a spoken word
    badger = stamps["things/inner/badger"][1]
    assert badger["captions"] == {"en": "A badger.", "es": "Un badger."} and set(badger["speech"]) == {"en", "es"}
    assert badger["sound"].endswith("badger.ogg") and badger["category"] == "things"
    assert splits == real.stamps.load(tmp_path)


def test_pairs_are_balanced_so_that_neither_medium_tells_alone(real, tmp_path):
    make_stamps(tmp_path)
    splits = real.stamps.load(tmp_path)
    for split, pairs in real.stamps.pairs(splits).items():
        inside = {stamp["image"] for stamp in splits[split]}
        assert {pair["image"] for pair in pairs} <= inside
        for kind in {pair["kind"] for pair in pairs}:
            own = [pair for pair in pairs if pair["kind"] == kind]
            yes = [pair for pair in own if pair["same"]]
            if len(own) > 1:
                assert 2 * len(yes) == len(own)
                for medium in ("image", "audio"):
                    assert sorted(pair[medium] for pair in yes) == sorted(
                        pair[medium] for pair in own if not pair["same"]
                    )
        assert all(pair["same"] == (pair["caption"] == pair["heard"]) for pair in pairs)


def test_noise_hides_most_and_is_the_same_each_time(real, tmp_path):
    make_stamps(tmp_path / "raw")
    splits = real.stamps.load(tmp_path / "raw")
    first = real.noise.load(splits, tmp_path / "noisy", "es")
    items = [item for split in first.values() for item in split]
    assert items and all(Path(item["noisy_image"]).is_file() for item in items)
    for item in items:
        shown = np.asarray(Image.open(item["noisy_image"]))
        hidden = np.all(shown == 128, axis=-1).reshape(4, 32, 4, 32).all((1, 3))
        assert hidden.sum() >= real.noise.HIDDEN
    before = Path(items[0]["noisy_audio"]).read_bytes()
    assert real.noise.load(splits, tmp_path / "noisy", "es") == first
    assert (
        real.noise.load(splits, tmp_path / "again", "es")
        and before == (tmp_path / "again" / Path(items[0]["noisy_audio"]).name).read_bytes()
    )


def test_recordings_have_transcripts_where_their_names_are_exact(real, tmp_path):
    names = "digits/7 digits/mon-0 letters/z letters/zed phonetic/9_p phonetic/x_p goodbye beep silence/1".split()
    for name in names:
        sound(tmp_path / "usr" / "share" / "asterisk" / "sounds" / "en" / f"{name}.wav")
    splits = real.recordings.load(tmp_path)
    texts = {item["id"]: item["text"] for item in splits["test"]}
    assert texts == {
        "digits/7": "seven",
        "digits/mon-0": "January",
        "letters/z": "Z",
        "phonetic/9_p": "niner",
        "phonetic/x_p": "x-ray",
    }
    assert [item["id"] for item in splits["unlabelled"]] == ["goodbye", "letters/zed"]
    assert "text" not in splits["unlabelled"][0] and "train" not in splits


def test_texts_for_synthetic_voices_keep_away_from_other_splits(real):
    texts = real.sentences.texts(400, ["A hat.", "A red ball.", "A hat."], ["A map.", "Seven!", "A red ball"])
    assert texts == real.sentences.texts(400, ["A hat.", "A red ball.", "A hat."], ["A map.", "Seven!", "A red ball"])
    kinds = Counter(kind for kind, _ in texts)
    assert kinds["caption"] == 1 and set(kinds) == {
        "caption",
        "sentence",
        "number",
        "digits",
        "letters",
        "phonetic",
        "date",
    }
    said = [real.splits.normalised(text) for _, text in texts]
    assert not {"map", "seven", "red ball"} & set(said) and not any("red ball" in text for text in said)
    assert any("map" in text for text in said)  # a word may be said; the caption as it stands may not


def test_voices_speak_once_and_are_left_out_where_they_are_not(real, tmp_path, monkeypatch, capsys):
    assert real.voices.load(tmp_path / "none", None, None) == {"train": []}
    spoken = []
    monkeypatch.setattr(real.voices, "_speak", lambda clips, espeak, flite: spoken.append((clips, espeak, flite)))
    first = real.voices.load(tmp_path / "voices", None, tmp_path, ["A hat."], count=60)
    assert {clip["voice"] for clip in first["train"]} <= {f"flite-{name}" for name in real.voices.FLITE}
    assert real.voices.load(tmp_path / "voices", None, tmp_path) == first and len(spoken) == 1
    both = real.voices.load(tmp_path / "both", tmp_path, tmp_path, count=200)["train"]
    assert {clip["voice"] for clip in both if clip["kind"] == "letters"} <= set(real.voices.ESPEAK)
    assert len({clip["voice"] for clip in both}) == len(real.voices.ESPEAK) + len(real.voices.FLITE)
    assert "60 clips of 4 voices" in capsys.readouterr().out


def test_unlabelled_speech_is_written_down_once_without_what_the_test_says(real, tmp_path, monkeypatch):
    texts = {"hello": "Hello there.", "seven": "Seven!", "figure": "Press 1.", "round": "no " * 40, "none": " ..."}
    for name in texts:
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(16_000), 16_000)
    soundfile.write(tmp_path / "long.wav", np.zeros(9 * 16_000), 16_000)
    asked = []

    def written(hearing, files, fast):
        asked.append(files)
        return [texts[Path(file).stem] for file in files]

    monkeypatch.setattr(real.dictation, "transcribe", written)
    unlabelled = [{"audio": str(tmp_path / f"{name}.wav"), "kind": "phrase"} for name in (*texts, "long")]
    given, file = {"test": [{"text": "seven"}], "unlabelled": unlabelled}, tmp_path / "dictation.jsonl"
    assert real.dictation.load(given, {}, file) == []
    found = real.dictation.load(given, {"hearing": tmp_path}, file)
    assert [item["text"] for item in found] == ["Hello there."] and found[0]["kind"] == "phrase"
    assert real.dictation.load(given, {"hearing": tmp_path}, file) == found and len(asked) == 1 and len(asked[0]) == 5


def make_watch(raw: Path) -> None:
    """As seglearn has it: a pickled dict."""
    rng, lengths = np.random.default_rng(0), [520] * 10
    data = {
        "X": [rng.normal(0, 1, (length, 6)) for length in lengths],
        "y": np.arange(10) % 7,
        "subject": np.arange(1, 11),
        "side": np.array([0.0, 1.0] * 5),
        "X_labels": ["ax", "ay", "az", "wx", "wy", "wz"],
        "y_labels": ["PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"],
    }
    raw.mkdir(parents=True, exist_ok=True)
    np.save(raw / "watch_dataset.npy", data, allow_pickle=True)


def test_watch_data_are_windows_in_the_units_of_this_package(real, tmp_path):
    make_watch(tmp_path / "raw")
    splits = real.motion.load(tmp_path / "raw", tmp_path / "watch")
    assert {split: len(items) for split, items in splits.items()} == {"train": 14, "validation": 2, "test": 4}
    subjects = [{item["subject"] for item in items} for items in splits.values()]
    assert not subjects[0] & subjects[1] | subjects[0] & subjects[2] | subjects[1] & subjects[2]
    item = splits["train"][1]
    assert (item["exercise"], item["side"], item["subject"]) == ("pendulum", "left", 1)
    raw = np.load(tmp_path / "raw" / "watch_dataset.npy", allow_pickle=True).item()["X"][0][250:500]
    read = read_signal(item["imu"], MODALITIES["imu"].channels, real.motion.RATE)
    np.testing.assert_allclose(read, raw * ([9.80665] * 3 + [1] * 3), atol=1e-4)
    with pytest.raises(MediaError, match="nothing is ever unpickled"):
        read_signal(str(tmp_path / "raw" / "watch_dataset.npy"), MODALITIES["imu"].channels, real.motion.RATE)


def make_emoji(raw: Path) -> None:
    entries = []
    for i, thing in enumerate(["MAN RUNNING", "WOMAN RUNNING", *(thing.upper() for thing in THINGS)]):
        code, category = f"1F{i:03}", "People & Body" if i < 2 else "Objects"
        picture(raw / "package" / "img" / "google" / "64" / f"{code.lower()}.png", i, "LA")
        more = {"unified": code, "image": f"{code.lower()}.png", "has_img_google": True}
        entries.append({"name": thing, "category": category, "subcategory": "all", **more})
    entries.append({**entries[0], "unified": "2B50-FE0F", "image": "gone.png"})
    entries.append({**entries[0], "unified": "1F3FB", "category": "Component"})
    (raw / "package" / "emoji.json").write_text(json.dumps(entries))


def make_tags(raw: Path) -> None:
    (raw / "package" / "data").mkdir(parents=True)
    one = {"hexcode": "1F002", "annotation": "a badger", "tags": "animal, grey", "openmoji_tags": "wood"}
    (raw / "package" / "data" / "openmoji.json").write_text(json.dumps([one]))


def test_emoji_have_names_categories_and_tags(real, tmp_path):
    make_emoji(tmp_path / "emoji")
    make_tags(tmp_path / "tags")
    splits = real.emoji.load(tmp_path / "emoji", tmp_path / "tags")
    items = {item["id"]: (split, item) for split, found in splits.items() for item in found}
    assert len(items) == len(THINGS) + 2
    assert items["1F000"][0] == items["1F001"][0]  # a man and a woman who run
    badger = items["1F002"][1]
    assert (badger["name"], badger["tags"]) == ("a badger", ["animal", "grey", "wood"])
    assert items["1F003"][1]["name"] == "bell" and items["1F003"][1]["tags"] == []
    bare = real.emoji.load(tmp_path / "emoji")
    assert {item["name"] for found in bare.values() for item in found} >= {"badger", "man running"}


def test_data_sets_are_written_as_chats_and_what_lacks_parts_is_said(real, tmp_path, monkeypatch, capsys):
    makers = {"stamps": make_stamps, "watch": make_watch, "emoji": make_emoji}
    for name, make in makers.items():
        make(tmp_path / "raw" / name)
    folders = {name: tmp_path / "raw" / name for name in makers}
    monkeypatch.setattr(real.data, "fetch", lambda names, output: real.fetch.Fetched(folders))
    real.data.main(["--output", str(tmp_path)])
    said = capsys.readouterr().out
    assert "recordings: left out, because phrases is missing." in said
    assert "voices: left out, because it has no items." in said
    counts = Counter()
    for file in (tmp_path / "data").iterdir():
        for i, line in enumerate(file.read_text().splitlines()):
            counts[file.stem.rpartition("_")[0]] += 1
            chat = read_chat(i, json.loads(line)).checked()
            assert all(Path(path).is_file() for media in chat.media.values() for path in media)
    assert {"captions", "speech", "translation", "same", "noisy", "senses", "names", "categories", "motion"} <= set(
        counts
    )
    assert counts["captions"] == len(THINGS) + 1 and counts["translation"] == len(THINGS)
    with pytest.raises(ValueError, match="No data set other; there are stamps"):
        real.data.load(["other"])
