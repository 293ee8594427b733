"""`anymodality export gguf`: what llama.cpp reads of it equals the composite; what it cannot run is refused. And language
models that are given in GGUF."""

import base64
import io
import json
import os
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionModel,
    LlamaConfig,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
    SiglipVisionConfig,
    ViTConfig,
)

from anymodality import cli
from modeling_tests import tiny
from modeling_tests.docs import lines
from modeling_tests.gguf_files import write_language_model
from transformers_anymodality import compose
from transformers_anymodality.hub.gguf import check, export


gguf = pytest.importorskip("gguf")

SIZES = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=32)
CLIP = tiny.vision_config(hidden_size=32)
SIGLIP = SiglipVisionConfig(**SIZES, patch_size=8)


def image(tower=CLIP, aligner="mlp", **settings) -> dict:
    processor = tiny.image_processor()
    if isinstance(tower, SiglipVisionConfig):
        processor = SiglipImageProcessor(size={"height": 32, "width": 32})
    return {
        "tower": tower,
        "processor": processor,
        "aligner": aligner,
        "select_feature": "patches",
        **settings,
    }


def values(reader, name: str) -> torch.Tensor:
    (tensor,) = [one for one in reader.tensors if one.name == name]
    # Shapes are written innermost first.
    return torch.from_numpy(np.array(tensor.data)).reshape(tuple(reversed(tensor.shape.tolist()))).double()


def fields(reader) -> dict:
    return {name: field.contents() for name, field in reader.fields.items()}


def norm(x, reader, name, eps):
    weight, bias = values(reader, f"{name}.weight"), values(reader, f"{name}.bias")
    return torch.nn.functional.layer_norm(x, weight.shape, weight, bias, eps)


def linear(x, reader, name):
    return x @ values(reader, f"{name}.weight").T + values(reader, f"{name}.bias")


def gelu(x, kind):
    return x * torch.sigmoid(1.702 * x) if kind == "quick" else torch.nn.functional.gelu(x)


def run(path, pixels: torch.Tensor) -> torch.Tensor:
    """Tokens `(tokens, hidden)` of one image, as llama.cpp computes LLaVA's from a file: its graph, in plain torch."""
    reader = gguf.GGUFReader(path)
    has, names = fields(reader), {tensor.name for tensor in reader.tensors}
    assert has["general.architecture"] == "clip" and has["clip.projector_type"] == "mlp"
    assert has["clip.has_vision_encoder"] is True
    heads, eps = has["clip.vision.attention.head_count"], has["clip.vision.attention.layer_norm_epsilon"]
    act = "erf" if has.get("clip.use_gelu") else "quick"
    weight = values(reader, "v.patch_embd.weight")
    bias = values(reader, "v.patch_embd.bias") if "v.patch_embd.bias" in names else None
    x = torch.nn.functional.conv2d(pixels.double(), weight, bias, stride=has["clip.vision.patch_size"])
    x = x.flatten(2).transpose(1, 2)[0]
    patches = len(x)
    if "v.class_embd" in names:
        x = torch.cat([values(reader, "v.class_embd")[None], x])
    x = x + values(reader, "v.position_embd.weight")
    if "v.pre_ln.weight" in names:
        x = norm(x, reader, "v.pre_ln", eps)
    (last,) = has["clip.vision.feature_layer"]
    assert last == has["clip.vision.block_count"]
    for i in range(last):
        h = norm(x, reader, f"v.blk.{i}.ln1", eps)
        q, k, v = (
            linear(h, reader, f"v.blk.{i}.attn_{one}").unflatten(-1, (heads, -1)).transpose(0, 1) for one in "qkv"
        )
        h = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1)
        x = x + linear(h, reader, f"v.blk.{i}.attn_out")
        h = gelu(linear(norm(x, reader, f"v.blk.{i}.ln2", eps), reader, f"v.blk.{i}.ffn_up"), act)
        x = x + linear(h, reader, f"v.blk.{i}.ffn_down")
    if "v.post_ln.weight" in names:
        x = norm(x, reader, "v.post_ln", eps)
    x = x[-patches:]
    return linear(gelu(linear(x, reader, "mm.0"), "erf"), reader, "mm.2")


@pytest.mark.parametrize("aligner", ["mlp", "linear"])
@pytest.mark.parametrize("settings", [{}, {"select_layer": -2}], ids=["whole", "cut"])
@pytest.mark.parametrize("tower", [CLIP, SIGLIP], ids=["clip", "siglip"])
def test_the_file_gives_the_tokens_of_the_composite(tmp_path, tower, settings, aligner):
    tower.hidden_act = "quick_gelu" if tower is CLIP else "gelu"
    model, processor = tiny.composite(settings={"image": image(tower, aligner, **settings)})
    export(model, processor, tmp_path / "out", torch.float32)
    inputs = processor(images=[tiny.medium("image")], return_tensors="pt")
    expected = model.get_image_features(inputs["pixel_values"]).pooler_output[0]
    found = run(tmp_path / "out" / "mmproj.gguf", inputs["pixel_values"])
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-4)
    prepares, has = processor.sub_processor("image"), fields(gguf.GGUFReader(tmp_path / "out" / "mmproj.gguf"))
    assert has["clip.vision.image_mean"] == pytest.approx(prepares.image_mean)
    assert has["clip.vision.image_std"] == pytest.approx(prepares.image_std)
    assert (has["clip.vision.image_size"], has["clip.vision.projection_dim"]) == (32, expected.shape[-1])
    texts = AutoTokenizer.from_pretrained(tmp_path / "out" / "language_model")
    assert texts.chat_template == tiny.CHAT_TEMPLATE != processor.tokenizer.chat_template
    language = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "language_model")
    for name, tensor in model.language_model.state_dict().items():
        assert torch.equal(language.state_dict()[name], tensor), name


def test_the_command(tmp_path, capsys):
    model, processor = tiny.composite(settings={"image": image()})
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    converter = tmp_path / "convert_hf_to_gguf.py"
    converter.write_text("import sys, pathlib\npathlib.Path(sys.argv[3]).write_text(' '.join(sys.argv[1:]))\n")
    words = ["export", "gguf", str(tmp_path / "model"), "--output", str(tmp_path / "out")]
    assert cli.main([*words, "--converter", str(converter)]) == 0
    said, file = capsys.readouterr().out.split(), tmp_path / "out" / "language_model.gguf"
    assert said == [str(tmp_path / "out" / "mmproj.gguf"), str(file)]
    assert file.read_text().split() == [str(file.with_suffix("")), "--outfile", str(file), "--outtype", "f16"]
    matrices = {one.tensor_type.name for one in gguf.GGUFReader(said[0]).tensors if one.name.endswith("ffn_up.weight")}
    assert matrices == {"F16"}
    assert cli.main(words) == 1 and "exists already" in capsys.readouterr().err
    converter.write_text("raise SystemExit(3)")
    words[-1] = str(tmp_path / "other")
    assert cli.main([*words, "--converter", str(converter)]) == 1 and "converter failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**tiny.modalities("audio"), "image": image()}, "Modalities audio: this export writes only images"),
        ({"image": image(ViTConfig(**SIZES, patch_size=8))}, "Tower 'vit'"),
        ({"image": image(aligner=tiny.RESAMPLER, num_tokens=3)}, "Aligner 'perceiver_resampler_aligner'"),
        ({"image": image(select_feature="all")}, "select_feature"),
        ({"image": image(select_feature="pooled")}, "select_feature"),
        ({"image": image(aligner="linear", num_tokens=4)}, "num_tokens"),
        ({"image": image(aligner={"type": "mlp", "pool": "pixel_shuffle", "pool_size": 2})}, "pool"),
        ({"image": image(aligner={"type": "mlp", "hidden_act": "relu"})}, "hidden_act of the aligner is 'relu'"),
        ({"image": image(tiny.vision_config(hidden_act="relu"))}, "hidden_act of the tower is 'relu'"),
        ({"image": image(tiny.vision_config(hidden_size=48))}, "intermediate_size"),
    ],
)
def test_what_llama_cpp_cannot_run_is_refused(settings, message, tmp_path):
    model, processor = tiny.composite(settings=settings)
    with pytest.raises(ValueError, match=message):
        export(model, processor, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_written_leaves_no_folder(tmp_path):
    model, processor = tiny.composite(settings={"image": image()})
    with pytest.raises(ValueError, match="nowhere.py is not a file"):
        export(model, processor, tmp_path / "out", converter="nowhere.py")
    with pytest.raises(ValueError, match="Linear is not a composite: merge adapters first"):
        export(torch.nn.Linear(1, 1), processor, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pixels_that_are_scaled_otherwise_are_refused():
    model, processor = tiny.composite(settings={"image": image()})
    check(model, processor)
    processor.sub_processor("image").rescale_factor = 1 / 127.5
    with pytest.raises(ValueError, match="does not scale pixels to 0 to 1"):
        check(model, processor)


# --- language models in GGUF ------------------------------------------------------------------------------------------


@pytest.fixture
def language_file(tmp_path):
    write_language_model(tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf"


@pytest.mark.parametrize("given", ["path", "model"])
@pytest.mark.parametrize("light", [False, True])
def test_a_language_model_in_gguf_is_composed_and_saved(language_file, given, light, tmp_path):
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=language_file.name)
    weights = {name: tensor.clone() for name, tensor in expected.state_dict().items()}
    CLIPVisionModel(CLIP).save_pretrained(tmp_path / "tower")  # what a light checkpoint refers to
    settings = {"image": image(str(tmp_path / "tower"))}
    if given == "path":
        model, processor = compose(str(language_file), settings)
    else:
        tokenizer = AutoTokenizer.from_pretrained(tmp_path, gguf_file=language_file.name)
        model, processor = compose(expected, settings, tokenizer=tokenizer)
    assert processor.tokenizer.decode([5]) == "ab" and getattr(model, "hf_quantizer", None) is None
    model.save_pretrained(tmp_path / "out", light=light, processor=processor)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert set(loaded.config.references or {}) == ({"image_tower"} if light else set())
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    for name, tensor in weights.items():
        assert torch.equal(loaded.language_model.state_dict()[name][: len(tensor)], tensor), name


def test_a_composite_of_gguf_is_planned(language_file):
    with torch.device("meta"):
        model, _ = compose(language_file, {"image": image()})
    assert model.device.type == "meta" and model.config.text_config.num_hidden_layers == 2


def test_the_command_takes_a_gguf(language_file, tmp_path):
    CLIPVisionModel(CLIP).save_pretrained(tmp_path / "tower")
    tiny.image_processor().save_pretrained(tmp_path / "tower")
    words = ["compose", "--language-model", str(language_file), "--modality", f"image={tmp_path / 'tower'}"]
    assert cli.main([*words, "--output", str(tmp_path / "out")]) == 0
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_a_model_without_its_tokenizer_says_so(language_file, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=language_file.name)
    with pytest.raises(ValueError, match="No tokenizer was found in .*: pass `tokenizer=`"):
        compose(model, {"image": image()})


def test_folders_and_files_without_a_config_are_refused(language_file, tmp_path):
    with pytest.raises(ValueError, match=r"no config.json.* give the file: .*tiny\.gguf"):
        compose(str(tmp_path), {"image": image()})
    torch.save({"a": torch.ones(1)}, tmp_path / "tower.pth")
    language, tokenizer = tiny.language_model(), tiny.tokenizer()
    with pytest.raises(ValueError, match="tower.pth is a file, but weights alone do not say which architecture"):
        compose(language, {"image": {"tower": str(tmp_path / "tower.pth")}}, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="no config.json.* It holds tiny.gguf, tower.pth"):
        compose(language, {"image": {"tower": str(tmp_path)}}, tokenizer=tokenizer)


# --- llama.cpp itself -------------------------------------------------------------------------------------------------


def tokenizer():
    """Of a kind that llama.cpp knows: pieces of words, and bytes for what is in none."""
    words = ["▁", "a", "b", "c", "▁a", "ab"]
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *words]
    table = {word: i for i, word in enumerate(vocabulary)}
    merges = [("▁", "a"), ("a", "b")]
    backend = Tokenizer(models.BPE(table, merges, byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    names = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>")
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def composed(aligner):
    config = LlamaConfig(
        vocab_size=265,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    torch.manual_seed(0)
    language = AutoModelForCausalLM.from_config(config).eval()
    tiny.spread(language)
    model, processor = compose(language, {"image": image(SIGLIP, aligner)}, tokenizer=tokenizer())
    tiny.spread(model)
    return model, processor


def ask(server, picture) -> list[int]:
    """The tokens that llama.cpp's server says to an image and words."""
    with urllib.request.urlopen(f"{server.listening_address}/props") as answer:
        mark = json.load(answer).get("media_marker", "<__media__>")
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    prompt = {"prompt_string": f"{mark}ab c", "multimodal_data": [base64.b64encode(buffer.getvalue()).decode()]}
    body = {"prompt": prompt, "n_predict": 8, "temperature": 0, "return_tokens": True, "ignore_eos": True}
    data, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{server.listening_address}/completion", data, kind)
    ) as answer:
        return json.load(answer)["tokens"]


@pytest.mark.slow
@pytest.mark.parametrize("aligner", ["mlp", "linear"])
def test_llama_cpp_answers_as_ours(aligner, tmp_path, monkeypatch):
    """Needs `pip install xllamacpp sentencepiece`, and llama.cpp's convert_hf_to_gguf.py in LLAMA_CPP_CONVERTER."""
    xllamacpp = pytest.importorskip("xllamacpp")
    if "LLAMA_CPP_CONVERTER" not in os.environ:
        pytest.skip("LLAMA_CPP_CONVERTER does not name llama.cpp's convert_hf_to_gguf.py")
    model, processor = composed(aligner)
    model.save_pretrained(tmp_path / "my-llava", processor=processor)
    monkeypatch.chdir(tmp_path)
    # As the documentation has it.
    (words,) = [row[1:] for row in lines("anymodality") if row[1:3] == ["export", "gguf"]]
    words[words.index("--converter") + 1] = os.environ["LLAMA_CPP_CONVERTER"]
    assert cli.main([*words, "--dtype", "float32"]) == 0
    ((_, *served),) = lines("llama-server")
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.mmproj.path = (served[served.index(flag) + 1] for flag in ("-m", "--mmproj"))
    settings.n_ctx, settings.port, settings.warmup = 512, 0, False
    server = xllamacpp.Server(settings)
    rng = np.random.default_rng(0)
    answers = set()
    for _ in range(4):
        picture = rng.integers(
            0, 255, (32, 32, 3), dtype=np.uint8
        )  # of the tower's size: both resize in their own way
        inputs = processor(text="<s><image>ab c", images=[picture], return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=8, min_new_tokens=8, do_sample=False)
        expected = output[0, inputs["input_ids"].shape[1] :].tolist()
        assert ask(server, picture) == expected
        answers.add(tuple(expected))
    assert len(answers) > 1  # the image tells
