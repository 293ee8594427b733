"""Remote code, and what must be whole before it is published; the Hub's side is in `test_hub`."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor, CLIPVisionModel, Trainer, TrainingArguments

from anymodality import cli
from modeling_tests import tiny
from transformers_anymodality import AnyModalityDataCollator, compose, set_trainable
from transformers_anymodality.hub import publish as publishing
from transformers_anymodality.hub.publish import Upload, check_reload, dummy_inputs, publish
from transformers_anymodality.model.remote_code import CONFIG_AUTO_MAP, MODULE, PROCESSOR_AUTO_MAP


MODALITIES = ("image", "imu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model, processor = tiny.composite(settings=tiny.modalities(*MODALITIES))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, model, processor


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved[0], tmp_path / "copy")


@pytest.fixture
def unchecked(monkeypatch):
    monkeypatch.setattr(publishing, "check_reload", lambda *arguments: 0.0)


def auto_maps(folder):
    return [json.loads((folder / name).read_text())["auto_map"] for name in ("config.json", "processor_config.json")]


def test_checkpoints_name_the_package_and_hold_no_code_of_it(saved):
    assert auto_maps(saved[0]) == [CONFIG_AUTO_MAP, PROCESSOR_AUTO_MAP]
    assert [file.name for file in saved[0].glob("*.py")] == [f"{MODULE}.py"]
    assert not hasattr(saved[1].config, "auto_map")


def test_auto_map_is_the_checkpoints_own_when_it_came_from_the_hub(saved, tmp_path):
    config = AutoConfig.from_pretrained(saved[0])
    config.auto_map = {"AutoConfig": f"org/other--{MODULE}.AnyModalityConfig"}
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).to_dict()["auto_map"] == CONFIG_AUTO_MAP


def test_without_the_package_the_module_says_what_to_install(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers_anymodality", None)
    code = (saved[0] / f"{MODULE}.py").read_text()
    with pytest.raises(ImportError, match='pip install "transformers-anymodality'):
        exec(compile(code, MODULE, "exec"), {})  # noqa: S102


def test_a_trainers_checkpoint_loads_by_remote_code_and_so_does_what_that_saves(saved, tmp_path):
    """A fresh process that does not import the package loads a Trainer's checkpoint after a reload and a re-save."""
    model, processor = AutoModelForCausalLM.from_pretrained(saved[0]), AutoProcessor.from_pretrained(saved[0])
    set_trainable(model, "aligners", verbose=False)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, save_steps=1, remove_unused_columns=False, report_to="none", use_cpu=True
    )
    chats = [{"messages": tiny.chat("image", "what", answer="red")}] * 2
    collator = AnyModalityDataCollator(processor)
    Trainer(model, arguments, collator, chats, processing_class=processor).train()
    checkpoint = tmp_path / "checkpoint-1"
    assert auto_maps(checkpoint) == [CONFIG_AUTO_MAP, PROCESSOR_AUTO_MAP]
    again = AutoModelForCausalLM.from_pretrained(checkpoint)
    again.save_pretrained(tmp_path / "again")
    AutoProcessor.from_pretrained(checkpoint).save_pretrained(tmp_path / "again")
    assert again.config.trained == ["image_aligner", "imu_aligner"]
    assert check_reload(model, tmp_path / "again", tmp_path) < 1e-5


def test_other_weights_than_the_models_are_refused(saved, copied, tmp_path):
    tensors = load_file(copied / "model.safetensors")
    tensors["image_aligner.latents"] += torch.randn_like(tensors["image_aligner.latents"])
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="Nothing was uploaded, .* other logits"):
        check_reload(saved[1], copied, tmp_path)


def test_left_out_is_what_training_leaves(copied, unchecked):
    for name in ("training_args.bin", "checkpoint-7/model.safetensors", "runs/events", ".git/config"):
        (copied / name).parent.mkdir(exist_ok=True)
        (copied / name).write_bytes(b"x")
    (copied / "trainer_state.json").write_text(json.dumps({"global_step": 7, "log_history": []}))
    done = publish(copied, "org/name", dry_run=True)
    assert (
        done.left_out == [".git", "checkpoint-7", "runs", "trainer_state.json", "training_args.bin"]
        and done.url is None
    )
    assert not any("/" in name for name in done.files)
    assert not (copied / "README.md").exists()  # the folder stays as it is


def test_older_checkpoints_get_what_they_lack(copied, unchecked, monkeypatch):
    (copied / f"{MODULE}.py").unlink()
    config = json.loads((copied / "config.json").read_text())
    del config["auto_map"]
    (copied / "config.json").write_text(json.dumps(config))
    staged = {}
    monkeypatch.setattr(
        publishing,
        "check_reload",
        lambda model, stage, *_: staged.update(maps=auto_maps(stage), module=(stage / f"{MODULE}.py").exists()) or 0.0,
    )
    publish(copied, "org/name", dry_run=True)
    assert staged == {"maps": [CONFIG_AUTO_MAP, PROCESSOR_AUTO_MAP], "module": True}
    assert "auto_map" not in json.loads((copied / "config.json").read_text())


def test_where_parts_were_on_this_machine_is_not_published(copied, unchecked, monkeypatch):
    config = json.loads((copied / "config.json").read_text())
    config["image_config"]["_name_or_path"], config["text_config"]["_name_or_path"] = "/home/ada/clip", "org/llama"
    (copied / "config.json").write_text(json.dumps(config))
    (copied / "trainer_state.json").write_text(
        json.dumps({"best_model_checkpoint": "/home/ada/run", "global_step": 1, "log_history": []})
    )
    task = {
        "task": "vqa",
        "model": "/home/ada/run",
        "data": "/home/ada/vqa",
        "samples": 2,
        "metrics": {"vqa_accuracy": 1.0},
    }
    (copied / "results.json").write_text(json.dumps({"model": "/home/ada/run", "tasks": {"vqa": task}}))
    staged = {}
    monkeypatch.setattr(
        publishing,
        "check_reload",
        lambda model, stage, *_: (
            staged.update((file.name, file.read_text()) for file in stage.iterdir() if file.suffix in (".json", ".md"))
            or 0.0
        ),
    )
    publish(copied, "org/name", dry_run=True)
    uploaded = json.loads(staged["config.json"])
    assert uploaded["image_config"]["_name_or_path"] == ""
    assert uploaded["text_config"]["_name_or_path"] == "org/llama"
    assert (
        json.loads(staged["results.json"])["tasks"]["vqa"] | {"model": "org/name", "data": "vqa"}
        == json.loads(staged["results.json"])["tasks"]["vqa"]
    )
    assert "ada" not in "".join(staged.values()) and "trainer_state.json" not in staged


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda folder: (folder / "processor_config.json").unlink(), "has no processor_config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "lacks model.safetensors"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "Merge it and push the result"),
        (lambda folder: truncate(folder / "model.safetensors"), "damaged"),
        (lambda folder: lose(folder, "imu_aligner"), "imu_aligner was trained, but is not in"),
    ],
)
def test_what_is_not_whole_is_refused(copied, damage, message):
    damage(copied)
    with pytest.raises(ValueError, match=message):
        publish(copied, "org/name", dry_run=True)


def truncate(file) -> None:
    file.write_bytes(file.read_bytes()[:-4])


def lose(folder, part: str) -> None:
    """As if an allow-list of names had forgotten a part that was trained."""
    tensors = {name: value for name, value in load_file(folder / "model.safetensors").items() if part not in name}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "trained": [part]}))


def test_light_checkpoints_must_refer_to_the_hub(tmp_path, unchecked, monkeypatch):
    CLIPVisionModel(tiny.vision_config()).save_pretrained(tmp_path / "clip")
    tiny.image_processor().save_pretrained(tmp_path / "clip")
    settings = {"image": {"tower": str(tmp_path / "clip"), "aligner": tiny.RESAMPLER}}
    model, processor = compose(tiny.language_model(), settings, tokenizer=tiny.tokenizer())
    model.save_pretrained(tmp_path / "light", light=True)
    processor.save_pretrained(tmp_path / "light")
    with pytest.raises(ValueError, match="which others cannot load: it is not a repository on the Hub"):
        publish(tmp_path / "light", "org/light")
    config = json.loads((tmp_path / "light" / "config.json").read_text())
    config["references"]["image_tower"] |= {"id": "org/clip", "revision": "0" * 40}
    (tmp_path / "light" / "config.json").write_text(json.dumps(config))
    done = publish(tmp_path / "light", "org/light", dry_run=True)
    whole = sum(p.numel() * 4 for p in model.parameters())
    tower = sum(p.numel() * 4 for p in model.image_tower.parameters())
    assert done.files["model.safetensors"] < whole - 0.9 * tower


def test_the_command(saved, copied, unchecked, capsys):
    assert cli.main(["push", str(copied), "org/name", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "a dry run: nothing was uploaded" in said and "model.safetensors" in said
    assert cli.main(["push", str(copied), "org/name", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["url"] is None and found["bytes"] == sum(found["files"].values())
    (copied / "model.safetensors").unlink()
    assert cli.main(["push", str(copied), "org/name"]) == 1 and "lacks model.safetensors" in capsys.readouterr().err


def test_dummy_inputs_have_every_sense(saved):
    _, model, processor = saved
    inputs = dummy_inputs(processor)
    assert set(inputs) == {"input_ids", "attention_mask", "pixel_values", "imu_values"}
    with torch.no_grad():
        assert torch.isfinite(model(**inputs).logits).all()


def test_small_files_have_their_size():
    done = str(Upload("org/name", {"config.json": 420, "model.safetensors": 2_500_000}, [], 0.0))
    assert done.startswith("org/name: 2 files, 2.5 MB; ")
    assert [line.split() for line in done.splitlines()[1:]] == [
        ["config.json", "0.4", "kB"],
        ["model.safetensors", "2.5", "MB"],
    ]
