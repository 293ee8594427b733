"""Converting releases: formats, what must be refused, what is written. That the numbers are right is `parity`'s matter."""

import importlib
import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoProcessor

from anymodality import cli
from modeling_tests import tiny
from modeling_tests.checks import tiny_setting
from modeling_tests.parity.recordings import load_converted, write_release
from modeling_tests.tiny_systems import byte_tokenizer
from transformers_anymodality.conversion import CONVERSIONS, convert
from transformers_anymodality.conversion._release import Release
from transformers_anymodality.systems.x_llm import CHATGLM_TAIL


RECORDINGS = Path(__file__).parent / "parity"
RECORDED = RECORDINGS / "pandagpt"


@pytest.fixture
def release(tmp_path) -> Path:
    """PandaGPT's, as it was released: one `.pth`, one folder, one `.pt`; no recordings."""
    folder = tmp_path / "release"
    folder.mkdir()
    torch.save(load_file(RECORDED / "imagebind_huge.safetensors"), folder / "imagebind_huge.pth")
    torch.save(load_file(RECORDED / "pytorch_model.safetensors"), folder / "pytorch_model.pt")
    vicuna = load_file(RECORDED / "vicuna.safetensors")
    names = sorted(vicuna)
    (folder / "vicuna").mkdir()
    shards = {"a.bin": names[::2], "b.bin": names[1::2]}
    for file, inside in shards.items():
        torch.save({name: vicuna[name] for name in inside}, folder / "vicuna" / file)
    index = {"weight_map": {name: file for file, inside in shards.items() for name in inside}}
    (folder / "vicuna" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(RECORDED / name, folder / name)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def same(first: Path, second: Path, **tolerance) -> None:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], **tolerance)


def test_formats_and_shards_make_no_difference(release, tmp_path):
    convert("pandagpt", release, tmp_path / "one")
    convert("pandagpt", release, tmp_path / "many", max_shard_size=200_000)
    convert("pandagpt", RECORDED, tmp_path / "safetensors")
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 3
    same(tmp_path / "one", tmp_path / "many", atol=0, rtol=0)
    same(tmp_path / "one", tmp_path / "safetensors", atol=0, rtol=0)
    AutoModelForCausalLM.from_pretrained(tmp_path / "many")


def test_delta_of_vicuna(release, tmp_path):
    """LLaMA has fewer rows than Vicuna: the delta is to zeros there."""
    convert("pandagpt", release, tmp_path / "merged")
    vicuna = dict(Release(release).open("vicuna"))
    shutil.rmtree(release / "vicuna")
    llama = {name: torch.randn_like(tensor)[: 359 if len(tensor) == 360 else None] for name, tensor in vicuna.items()}
    delta = {name: tensor.clone() for name, tensor in vicuna.items()}
    for name, tensor in llama.items():
        delta[name][: len(tensor)] -= tensor
    for folder, tensors in {"llama": llama, "vicuna-delta": delta}.items():
        (release / folder).mkdir()
        save_file(tensors, release / folder / "model.safetensors")
    convert("pandagpt", release, tmp_path / "added")
    same(tmp_path / "merged", tmp_path / "added", atol=1e-6, rtol=1e-6)


def test_merged_and_adapter_say_the_same(release, tmp_path):
    convert("pandagpt", release, tmp_path / "merged", merge=True)
    convert("pandagpt", release, tmp_path / "beside")
    merged, beside = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("merged", "beside"))
    processor = AutoProcessor.from_pretrained(tmp_path / "beside")
    inputs = tiny.inputs(processor, tiny.chat("image", "what"))
    without = beside(**inputs).logits
    beside.load_adapter(str(tmp_path / "beside" / "adapter"))
    torch.testing.assert_close(beside(**inputs).logits, merged(**inputs).logits, atol=1e-5, rtol=1e-4)
    assert (without - merged(**inputs).logits).abs().max() > 1e-3


@pytest.mark.parametrize(
    "change, error",
    [
        (
            lambda t: t.pop("llama_proj.bias"),
            "1 parameters have no weights in the release: image_aligner.projection.bias",
        ),
        (lambda t: t.update(strange=torch.ones(1)), "1 tensors of pytorch_model.pt have no place.*: strange"),
        (lambda t: t.update({"llama_proj.bias": torch.ones(7)}), r"image_aligner.projection.bias has shape \(7,\)"),
    ],
)
def test_incomplete_and_strange_releases_are_refused_and_nothing_is_written(release, tmp_path, change, error):
    tensors = torch.load(release / "pytorch_model.pt", weights_only=True)
    change(tensors)
    torch.save(tensors, release / "pytorch_model.pt")
    with pytest.raises(ValueError, match=error):
        convert("pandagpt", release, tmp_path / "output")
    assert not (tmp_path / "output").exists() and not list(tmp_path.glob("*.partial"))


def test_missing_files_are_named(release, tmp_path):
    (release / "pytorch_model.pt").unlink()
    with pytest.raises(FileNotFoundError, match="none of pytorch_model, pandagpt.*It has config.json, imagebind_huge"):
        convert("pandagpt", release, tmp_path / "output")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        convert("pandagpt", tmp_path / "nowhere", tmp_path / "output")


def test_nothing_in_a_release_is_run(release, tmp_path):
    class Hostile:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "run",))

    (release / "pytorch_model.pt").write_bytes(pickle.dumps({"weight": Hostile()}))
    with pytest.raises(Exception, match="[Uu]nsupported|weights_only|Weights only"):
        convert("pandagpt", release, tmp_path / "output")
    assert not (tmp_path / "run").exists()


def test_another_language_model(release, tmp_path):
    language = tiny.language_model("gpt2", vocab_size=400)
    with pytest.raises(ValueError, match="take one of the width that the release was trained for"):
        language.save_pretrained(tmp_path / "small")
        tiny.tokenizer().save_pretrained(tmp_path / "small")
        convert("pandagpt", release, tmp_path / "output", language_model=str(tmp_path / "small"))
    config = language.config
    config.n_embd, config.n_head = 48, 4
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "wide")
    tiny.tokenizer().save_pretrained(tmp_path / "wide")
    report = convert("pandagpt", release, tmp_path / "output", language_model=str(tmp_path / "wide"))
    assert any("another language model was chosen" in reason for reason in report.unused.values())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "output")
    assert model.config.text_config.model_type == "gpt2"
    convert("pandagpt", release, tmp_path / "light", language_model=str(tmp_path / "wide"), light=True)
    sizes = [sum(f.stat().st_size for f in (tmp_path / name).glob("*.safetensors")) for name in ("light", "output")]
    assert sizes[0] < sizes[1]
    light = AutoModelForCausalLM.from_pretrained(tmp_path / "light")
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), light.state_dict().values(), strict=True)
    )


def test_command_and_card(release, tmp_path, capsys):
    command = ["convert", "pandagpt", "--from", str(release), "--output", str(tmp_path / "panda"), "--merge"]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert "tensors were not used" in said and "PandaGPT reads no text by ImageBind" in said
    card = (tmp_path / "panda" / "README.md").read_text()
    assert "license: cc-by-nc-sa-4.0" in card and 'from_pretrained("panda"' in card
    assert cli.main(command) == 1
    assert "exists already" in capsys.readouterr().err


SYSTEMS = {
    "macaw": "macaw_llm",
    "mplug_owl": "mplug_owl",
    "mplug_owl_bloom": "mplug_owl",
    "mplug_owl_video": "mplug_owl",
    "pandagpt": "pandagpt",
    "xllm": "x_llm",
}


def test_fresh_processes_chat_with_media_from_files(tmp_path):
    """Every system, converted with a tokenizer that is named, loaded by a process that knows nothing else."""
    from PIL import Image

    byte_tokenizer(CHATGLM_TAIL).save_pretrained(tmp_path / "tokenizer")
    for folder, system in SYSTEMS.items():
        named = {} if folder == "pandagpt" else {"tokenizer": str(tmp_path / "tokenizer")}
        convert(system, RECORDINGS / folder, tmp_path / folder, **named)
    Image.fromarray(tiny.medium("image")).save(tmp_path / "photo.png")
    script = """
import sys
import transformers_anymodality
from transformers import AutoModelForCausalLM, AutoProcessor
for name in sys.argv[1:]:
    model, processor = (c.from_pretrained(name) for c in (AutoModelForCausalLM, AutoProcessor))
    content = [{"type": "image", "path": "photo.png"}, {"type": "text", "text": "?"}]
    inputs = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True,
        tokenize=True, return_dict=True, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    print(name, "answers:", processor.batch_decode(output[:, inputs["input_ids"].shape[1] :]))
"""
    command = [sys.executable, "-c", script, *SYSTEMS]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert [line.split()[0] for line in done.stdout.splitlines() if "answers:" in line] == list(SYSTEMS), done.stderr


# --- every conversion ----------------------------------------------------------------------------------------------


# Conversion -> the recorded release that it converts; or the recording, where in its config the release's is, and the
# file of weights.
RELEASES: dict[str, str | tuple[str, tuple, str]] = {
    "cif": ("xllm", ("cif", 0), "cif.0"),
    "imagebind": "imagebind",
    "imu2clip": "imu2clip",
    "macaw_llm": "macaw",
    "mplug_owl": "mplug_owl",
    "pandagpt": "pandagpt",
    "perceiver_resampler": ("perceiver_resampler", ("flamingo_pytorch",), "flamingo_pytorch"),
    "x_llm": "xllm",
}


def release_of(name: str, folder: Path) -> Path:
    recorded = tiny_setting(RELEASES, name, "RELEASES in test_conversion.py")
    if isinstance(recorded, str):
        return RECORDINGS / recorded
    place, keys, stem = recorded
    config = json.loads((RECORDINGS / place / "config.json").read_text())
    for key in keys:
        config = config[key]
    return write_release(folder, config, weights=load_file(RECORDINGS / place / f"{stem}.safetensors"))


@pytest.mark.parametrize("name", CONVERSIONS)
def test_every_conversion_makes_a_checkpoint_of_a_release(name, tmp_path):
    """Which loads without a missing weight, with a card that says what was left out; and is not written over."""
    release = release_of(name, tmp_path / "release")
    report = convert(name, release, tmp_path / "ours")
    saved = weights(tmp_path / "ours")
    assert report.used and report.parameters == sum(tensor.numel() for tensor in saved.values())
    assert all(tensor.isfinite().all() for tensor in load_converted(tmp_path / "ours").state_dict().values())
    card = (tmp_path / "ours" / "README.md").read_text()
    assert f"anymodality convert {name}" in card and all(reason in card for reason in report.unused.values())
    with pytest.raises(FileExistsError):
        convert(name, release, tmp_path / "ours")


@pytest.mark.parametrize("name", CONVERSIONS)
def test_every_conversion_is_compared_and_says_what_it_reads(name, tmp_path):
    assert callable(importlib.import_module(f"modeling_tests.parity.replays.{name}").replay)
    assert CONVERSIONS[name].help
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty has none of .*It has nothing"):
        convert(name, tmp_path / "empty", tmp_path / "output")


def changed(folder: Path, recorded: str, file: str, drop: str = "", config=None, **added: torch.Tensor) -> Path:
    """A recorded release with one file of its weights alone changed, by a pattern for names and with tensors added."""
    shutil.copytree(RECORDINGS / recorded, folder)
    for other in ("src_encoder", "best_ckpt_state_dict") if file == "patch_transformer" else ():
        (folder / f"{other}.safetensors").unlink()
    kept = {
        name: value
        for name, value in load_file(folder / f"{file}.safetensors").items()
        if not (drop and re.search(drop, name))
    }
    save_file({**kept, **{name.replace("__", "."): v for name, v in added.items()}}, folder / f"{file}.safetensors")
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, **(config or {})}))
    return folder


PLAIN = {"speech_feat_proj__weight": torch.ones(48, 512), "speech_feat_proj__bias": torch.ones(48)}


@pytest.mark.parametrize(
    "conversion, recorded, file, change, said",
    [
        ("imagebind", "imagebind", "weights", {"drop": r"postprocessors\.(depth|text)"}, ""),
        ("imu2clip", "imu2clip", "patch_transformer", {"drop": "^cls$"}, ""),
        (
            "imu2clip",
            "imu2clip",
            "patch_transformer",
            {"config": {"patch_transformer": {"nhead": 4, "cls_token": False}}},
            "the mean of all states is read",
        ),
        ("macaw_llm", "macaw", "weights", {"drop": "^(temporal_|logit_scale|layer_norm)"}, ""),
        ("mplug_owl", "mplug_owl_bloom", "weights", {"drop": "lm_head"}, ""),
        ("pandagpt", "pandagpt", "pytorch_model", {"drop": "lora"}, ""),
        ("pandagpt", "pandagpt", "pytorch_model", {"drop": r"[ko]_proj\.lora"}, "kept as an adapter"),
        ("x_llm", "xllm", "xllm", {"drop": "video_proj"}, ""),
        ("x_llm", "xllm", "xllm", {"drop": "pre_bert|post_bert|speech_bert", **PLAIN}, ""),
        ("x_llm", "xllm", "xllm", PLAIN, "of a speech interface without BERT"),
    ],
)
def test_optional_tensors_may_be_there_or_not(conversion, recorded, file, change, said, tmp_path):
    report = convert(conversion, changed(tmp_path / "release", recorded, file, **change), tmp_path / "ours")
    assert not said or any(said in reason for reason in report.unused.values())
    load_converted(tmp_path / "ours")


def test_lora_is_merged_where_there_is_any(tmp_path):
    """With two of four modules changed, the others stay as they are."""
    release = changed(tmp_path / "release", "pandagpt", "pytorch_model", drop=r"[ko]_proj\.lora")
    convert("pandagpt", release, tmp_path / "ours", merge=True)
    before, after = load_file(release / "vicuna.safetensors"), weights(tmp_path / "ours")
    for name, tensor in before.items():
        if "self_attn" in name and name.endswith("weight"):
            assert torch.equal(tensor, after[f"language_model.{name}"]) == ("k_proj" in name or "o_proj" in name)
