"""The command `anymodality`: help and inspect without torch, compose, generate."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoProcessor, CLIPVisionModel

from anymodality import cli
from anymodality.plain.files import DTYPES, stored_tensors
from anymodality.plain.inspection import Inspection, PartInfo
from modeling_tests import tiny
from transformers_anymodality.hub.inspect import inspect_checkpoint
from transformers_anymodality.utils import hub
from transformers_anymodality.utils.files import open_weights
from transformers_anymodality.utils.upstream import httpx


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """A language model and an image tower, saved as their own checkpoints, and a picture."""
    folder = tmp_path_factory.mktemp("parts")
    tiny.language_model().save_pretrained(folder / "lm")
    tiny.tokenizer().save_pretrained(folder / "lm")
    CLIPVisionModel(tiny.vision_config()).save_pretrained(folder / "clip")
    tiny.image_processor().save_pretrained(folder / "clip")
    Image.fromarray(tiny.medium("image")).save(folder / "photo.png")
    return folder


@pytest.fixture(scope="module")
def composed(parts) -> Path:
    output = parts / "composed"
    words = ["--language-model", str(parts / "lm"), "--modality", f"image={parts / 'clip'}", "--output", str(output)]
    assert cli.main(["compose", *words, "--modality", "video={tower: image, aligner: linear, num_tokens: 2}"]) == 0
    return output


LOADED = """
import sys
import anymodality.cli
status = anymodality.cli.main()
assert "torch" not in sys.modules and "transformers" not in sys.modules, "what takes time is loaded"
sys.exit(status)
"""


@pytest.mark.parametrize("words", [["--help"], ["inspect", "--help"], ["data", "check", "--help"], ["generate"]])
def test_help_and_mistakes_load_nothing(words):
    run = subprocess.run([sys.executable, "-c", LOADED, *words], capture_output=True, text=True, timeout=60)
    assert run.returncode == (0 if "--help" in words else 2), run.stderr
    assert "Usage: anymodality" in run.stdout + run.stderr


def test_help_fits_a_screen_and_ends_with_an_example(capsys, monkeypatch):
    """In plain words: options begin with their noun, what is wrong "is not" something."""
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main([]) == 2
    inner = [(group.name, group.typer_instance.registered_commands) for group in cli.app.registered_groups]
    commands = [[command.name] for command in cli.app.registered_commands]
    commands += [[group, one.name or one.callback.__name__] for group, several in inner for one in several]
    for words in commands:
        capsys.readouterr()
        assert cli.main([*words, "--help"]) == 0
        lines = capsys.readouterr().out.rstrip().splitlines()
        assert len(lines) <= 40 and max(map(len, lines)) <= 80, (
            f"{words}: {len(lines)} lines, {max(map(len, lines))} wide"
        )
        example = "\n".join(lines).rpartition("Example:\n")[2]
        assert example.strip().startswith(f"anymodality {' '.join(words)} "), words
        assert not re.search(
            r"^  -.{1,40}  (Of|Whether|What|Which) |[^e] (is|are) no [a-z]", "\n".join(lines), re.M
        ), words


@pytest.mark.parametrize("words", ["second=3", "seconds=none", "media=-1"])
def test_maxima_that_are_none_are_refused(words, capsys):
    assert cli.main(["serve", "nowhere", "--max", words]) == 2
    assert "seconds" in capsys.readouterr().err or words.startswith("media")


def test_the_entry_point_loads_the_package_when_a_command_runs(composed):
    code = "import sys, anymodality.cli; sys.exit(anymodality.cli.main())"
    words = [sys.executable, "-c", code, "card", str(composed), "--stdout"]
    run = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0 and "perceiver_resampler" in run.stdout, run.stderr
    assert subprocess.run([*words, "--nonsense"], capture_output=True, timeout=60).returncode == 2


def test_a_folder_is_inspected_without_what_takes_time(composed, parts, tmp_path):
    run = subprocess.run([sys.executable, "-c", LOADED, "inspect", str(composed)], capture_output=True, text=True)
    assert run.returncode == 0 and str(inspect_checkpoint(composed)) == run.stdout.rstrip("\n"), run.stderr
    run = subprocess.run([sys.executable, "-c", LOADED, "inspect", str(parts / "lm")], capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.strip().endswith("checkpoint (model_type 'llama')."), run.stderr


def test_inspect(composed, parts, capsys):
    assert cli.main(["inspect", str(composed), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    model = AutoModelForCausalLM.from_pretrained(composed)
    counts = {name: sum(p.numel() for p in part.state_dict().values()) for name, part in model.named_children()}
    assert {part["name"]: part["parameters"] for part in found["parts"]} == counts
    assert found["parameters"] == sum(counts.values()) and found["bytes"] == 4 * found["parameters"]
    sources = {part["name"]: part["source"] for part in found["parts"]}
    assert sources["language_model"] == str(parts / "lm") and sources["image_tower"] == str(parts / "clip")
    assert [(modality["name"], modality["token"], modality["tokens"]) for modality in found["modalities"]] == [
        ("image", "<image>", 64),
        ("video", "<video>", 2),
    ]
    assert cli.main(["inspect", str(composed)]) == 0
    out = capsys.readouterr().out
    assert f"checkpoint of {sum(counts.values()):,} numbers (parameters and buffers), " in out and "image_tower" in out
    part = PartInfo("x", "y", bytes=10_000_050, dtypes=["float32", "int64"], memory={"float32": 10**7, "int64": 50})
    assert "10.0 MB  float32 10.0 MB, int64 0.1 kB" in str(Inspection("z", [part], []))


def test_classes_count_the_tokens_that_the_processor_says(composed, tmp_path):
    expected = inspect_checkpoint(composed).modalities
    shutil.copytree(composed, tmp_path, ignore=shutil.ignore_patterns("processor_config.json"), dirs_exist_ok=True)
    found = inspect_checkpoint(tmp_path).modalities
    assert [replace(modality, token=None) for modality in expected] == found
    assert all(modality.tokens for modality in found)


def test_inspect_says_what_is_wrong(composed, parts, tmp_path, capsys):
    assert cli.main(["inspect", str(parts / "lm")]) == 1
    assert (
        capsys.readouterr().err.strip().endswith("is not a transformers-anymodality checkpoint (model_type 'llama').")
    )
    assert cli.main(["inspect", str(tmp_path / "gone")]) == 1
    copy, whole = Path(shutil.copytree(composed, tmp_path / "copy")), (composed / "model.safetensors").read_bytes()
    weights, config = copy / "model.safetensors", json.loads((composed / "config.json").read_text())
    for content in (whole[:-8], whole + b"x", whole[:5], b"", whole[:8] + b"[]" + whole[10:]):
        weights.write_bytes(content)
        assert cli.main(["inspect", str(copy)]) == 1
        assert f"{weights} is damaged, or is not a safetensors file" in capsys.readouterr().err
        with pytest.raises(ValueError, match="is damaged"), open_weights(weights):
            pass
    weights.unlink()
    assert cli.main(["inspect", str(copy)]) == 1
    assert "lacks model.safetensors" in capsys.readouterr().err
    weights.write_bytes(whole)
    cases = {"is not JSON": "{", "`modalities` must be a table": {**config, "modalities": 3}}
    cases["`image_config` must be a config"] = {**config, "image_config": None}
    cases["wrong type (TypeError"] = {**config, "trained": 3}
    for message, content in cases.items():
        (copy / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
        assert cli.main(["inspect", str(copy)]) == 1
        assert message in capsys.readouterr().err


def test_headers_of_every_dtype_are_read(tmp_path):
    """As safetensors writes them, and torch calls them."""
    seen = 0
    for dtype in [getattr(torch, name) for name, _ in DTYPES.values() if hasattr(torch, name)]:
        try:
            save_file({"one": torch.empty(4, 6, dtype=dtype), "none": torch.empty(0, dtype=dtype)}, tmp_path / "x")
        except Exception:  # safetensors does not have it
            continue
        seen += 1
        none, one = sorted(stored_tensors(tmp_path / "x"))
        assert none[1:] == (str(dtype).removeprefix("torch."), 0, 0)
        assert one[:2] == ("one", str(dtype).removeprefix("torch.")) and one[3] == 24 * dtype.itemsize
    assert seen > 15


@pytest.mark.parametrize("command", ["chat", "serve", "demo", "inspect"])
def test_what_is_not_there_is_said_at_once(command, tmp_path, capsys, monkeypatch):
    for name in ("./gone", "../gone", "~/gone", str(tmp_path / "gone"), "a/b/c", "who are you"):
        assert cli.main([command, name]) == 1
        assert capsys.readouterr().err == f"anymodality {command}: There is no folder {name}.\n"
    assert cli.main([command, "gone"]) == 1
    assert "There is no folder gone here, and the Hub cannot be reached to look there: it is offline" in (
        capsys.readouterr().err
    )

    def unreachable(url, token):
        raise httpx.ConnectError("Name or service not known")

    monkeypatch.setattr(hub, "get_hf_file_metadata", unreachable)
    assert cli.main([command, "who/gone"]) == 1
    assert "the Hub cannot be reached to look there: Name or service not known." in capsys.readouterr().err


def test_what_is_ones_own_is_to_be_imported(composed, tmp_path, capsys, monkeypatch):
    """A modality and a tower that this process does not know, and none of Transformers' warnings about other things."""
    warned: list[str] = []
    monkeypatch.setattr(transformers.configuration_utils.logger, "warning", lambda text, *_, **__: warned.append(text))
    shutil.copytree(composed, tmp_path / "own")
    config = tmp_path / "own" / "config.json"
    for name, old, new in (
        ("processor_config.json", '"video": {', '"radar": {'),
        ("config.json", '"clip_vision_model"', '"radar_tower"'),
    ):
        file = tmp_path / "own" / name
        assert old in (text := file.read_text())
        file.write_text(text.replace(old, new))
    for said in ("unknown model type 'radar_tower'", "Unknown modality 'radar'"):
        assert cli.main(["generate", str(tmp_path / "own"), "what is this ?"]) == 1
        error = capsys.readouterr().err
        assert said in error and error.endswith("To import your own: --import MODULE.\n") and not warned
        config.unlink(missing_ok=True)  # a processor alone
    with pytest.raises(ValueError, match="Unknown modality 'radar'"):
        AutoProcessor.from_pretrained(tmp_path / "own")
    assert not warned


def test_compose_light_from_yaml(parts, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"language_model: {parts / 'lm'}\nmodalities: {{image: {{tower: {parts / 'clip'}, num_tokens: 9}}}}"
    )
    words = ["compose", "--config", str(recipe), "--output", str(tmp_path / "light"), "--light", "--json"]
    assert cli.main([*words, "--modality", f"image={{tower: {parts / 'clip'}, num_tokens: 4}}"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["light"] and found["modalities"][0]["tokens"] == 4
    assert inspect_checkpoint(tmp_path / "light").to_dict() == found
    assert cli.main(words) == 1 and "exists already" in capsys.readouterr().err
    recipe.write_text("language_models: x")
    words[words.index("--output") + 1] = str(tmp_path / "other")
    assert cli.main(words) == 1 and "Did you mean 'language_model'?" in capsys.readouterr().err


def test_compose_plan(composed, parts, tmp_path, capsys):
    """It says what inspecting the composed checkpoint says, of parts without their weights; and nothing is written."""
    for name in ("lm", "clip"):
        shutil.copytree(parts / name, tmp_path / name, ignore=shutil.ignore_patterns("*.safetensors"))
    before = sorted(tmp_path.rglob("*"))
    words = ["compose", "--language-model", str(tmp_path / "lm"), "--modality", f"image={tmp_path / 'clip'}", "--plan"]
    words += ["--modality", "video={tower: image, aligner: linear, num_tokens: 2}"]
    assert cli.main([*words, "--json"]) == 0
    found, expected = json.loads(capsys.readouterr().out), inspect_checkpoint(composed).to_dict()
    assert found["source"] == "plan" and found["modalities"] == expected["modalities"]
    for one in ("parameters", "bytes"):
        assert found[one] == expected[one]
        assert [part[one] for part in found["parts"]] == [part[one] for part in expected["parts"]]
    assert [part["source"] for part in found["parts"]][:2] == [str(tmp_path / "lm"), str(tmp_path / "clip")]
    assert cli.main(words) == 0
    table = capsys.readouterr().out
    assert "plan: " in table and "perceiver_resampler" in table and f"{expected['parameters']:,}" in table
    assert sorted(tmp_path.rglob("*")) == before
    for wrong in ([*words, "--output", str(tmp_path / "x")], words[:5]):
        assert cli.main(wrong) == 2 and "--plan" in capsys.readouterr().err


def test_compose_a_system_with_random_weights(parts, tmp_path):
    sizes = "{model_type: imagebind_audio, hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, "
    sizes += "num_attention_heads: 2, projection_dim: 8}"
    words = ["compose", "--system", "pandagpt", "--language-model", str(parts / "lm"), "--output", str(tmp_path / "x")]
    assert cli.main([*words, "--option", "modalities=[audio]", "--option", f"towers={{audio: {sizes}}}"]) == 0
    assert list(AutoModelForCausalLM.from_pretrained(tmp_path / "x").config.modalities) == ["audio"]


def test_generate(composed, parts, capsys):
    photo, words = str(parts / "photo.png"), ["--max-new-tokens", "5", "--temperature", "0"]
    assert cli.main(["generate", "--image", photo, str(composed), "what is this ?", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["media"] == [{"modality": "image", "path": photo}] and found["new_tokens"] <= 5
    model, processor = AutoModelForCausalLM.from_pretrained(composed), AutoProcessor.from_pretrained(composed)
    content = [{"type": "image", "path": photo}, {"type": "text", "text": "what is this ?"}]
    inputs = tiny.inputs(processor, [{"role": "user", "content": content}])
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=5, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert found["text"] == processor.decode(output, skip_special_tokens=True).strip()
    assert cli.main(["generate", str(composed), "what is this ?", f"--image={photo}", *words]) == 0
    assert capsys.readouterr().out.strip() == found["text"]


def test_generate_says_what_is_wrong(composed, capsys):
    cases = {
        ("hello",): (2, "Give a model and one prompt"),
        (str(composed), "hello", "--imge", "x.png"): (2, "Did you mean '--image'? Media of"),
        (str(composed), "hello", "--smell", "3"): (2, "There is no --smell. Media of"),
        (str(composed), "hello", "--max-new-token", "3"): (2, "Did you mean '--max-new-tokens'?"),
        (str(composed), "hello", "--image", "gone.png"): (1, "gone.png"),
        (str(composed), "hello", "--image", "https://x.org/a.png"): (1, "allow_urls"),
    }
    for words, (status, message) in cases.items():
        assert cli.main(["generate", *words]) == status
        assert message in capsys.readouterr().err
