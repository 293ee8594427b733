"""Checkpoints with damaged weights, and damaged training checkpoints: refused with an error that names the file."""

import json
import random
import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from modeling_tests import saved_copy, tiny
from modeling_tests.saved_copy import edit
from modeling_tests.training_runs import trainer
from transformers_anymodality.training.checkpoints import last_checkpoint
from transformers_anymodality.utils.checked import ConfigError
from transformers_anymodality.utils.files import CHECKSUMS


copy = saved_copy.copy
saved = saved_copy.saved


# --- weights --------------------------------------------------------------------------------------------------------


NAME = "image_aligner.layers.0.up_proj.weight"


def first(value: float):
    def change(weights: torch.Tensor) -> torch.Tensor:
        weights.view(-1)[0] = value
        return weights

    return change


REFUSED = {
    "NaN": (first(float("nan")), "Weights with NaN or infinity .1."),
    "infinity": (first(float("inf")), "Weights with NaN or infinity .1."),
    "minus infinity": (first(float("-inf")), "Weights with NaN or infinity .1."),
    **{
        str(dtype): (
            lambda weights, dtype=dtype: weights.to(dtype),
            "Weights of a kind of number that is not converted .1.",
        )
        for dtype in (torch.int8, torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn)
    },
}


@pytest.mark.parametrize("kind", REFUSED)
def test_weights_of_another_kind_or_not_finite_are_refused(copy, kind):
    change, message = REFUSED[kind]
    tensors = load_file(copy / "model.safetensors")
    tensors[NAME] = change(tensors[NAME])
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=f"{copy}.*{message}.*{NAME}"):
        AutoModelForCausalLM.from_pretrained(copy)


def test_finite_weights_whose_sum_is_not_finite_are_loaded(copy):
    tensors = load_file(copy / "model.safetensors")
    tensors[NAME].fill_(torch.finfo(tensors[NAME].dtype).max)
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    assert AutoModelForCausalLM.from_pretrained(copy).state_dict()[NAME].equal(tensors[NAME])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_of_another_float_are_converted(copy, dtype):
    tensors = load_file(copy / "model.safetensors")
    tensors[NAME] = tensors[NAME].to(dtype)
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    loaded = AutoModelForCausalLM.from_pretrained(copy, dtype=torch.float32)
    assert torch.equal(loaded.state_dict()[NAME], tensors[NAME].float())


def split(folder: Path, other: str) -> None:
    """Weights in two files, one of which is called `other` in the index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file({NAME: tensors[NAME]}, folder.parent / "outside.safetensors", {"format": "pt"})
    save_file({NAME: tensors.pop(NAME)}, folder / "b.safetensors", {"format": "pt"})
    save_file(tensors, folder / "a.safetensors", {"format": "pt"})
    index = {"metadata": {}, "weight_map": {**dict.fromkeys(tensors, "a.safetensors"), NAME: other}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_an_index_names_files_of_its_checkpoint(copy):
    split(copy, "b.safetensors")
    AutoModelForCausalLM.from_pretrained(copy)
    index = copy / "model.safetensors.index.json"
    for other in (
        "../outside.safetensors",
        str(copy.parent / "outside.safetensors"),
        "c.bin",
        3,
        None,
        "c.safetensors",
    ):
        edit(index, lambda content, other=other: content["weight_map"].update({NAME: other}))
        with pytest.raises((ConfigError, OSError), match="index.json|c.safetensors"):
            AutoModelForCausalLM.from_pretrained(copy)
    index.write_text("[]")
    with pytest.raises(ConfigError, match="weight_map"):
        AutoModelForCausalLM.from_pretrained(copy)


def test_files_that_are_cut_off_are_named(copy):
    file = copy / "model.safetensors"
    whole = file.read_bytes()
    for content in (whole[:-10], whole[:5], b"", whole + b"x" * 100):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match="model.safetensors is damaged"):
            AutoModelForCausalLM.from_pretrained(copy)


# --- training checkpoints -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    model, processor = tiny.composite(settings=tiny.modalities("image", "audio", "imu"))
    trainer(model, processor, folder, max_steps=3, save_strategy="steps", save_steps=1).train()
    return folder


def test_every_file_that_is_torn_or_missing_is_seen(run, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    newest = Path(shutil.copytree(run, tmp_path / "run")) / "checkpoint-3"
    assert last_checkpoint(newest.parent) == str(newest)
    for file in sorted(path for path in newest.iterdir() if path.suffix not in (".jinja", ".md", ".py")):
        whole = file.read_bytes()
        damages = {"cut": whole[: len(whole) * 2 // 3], "empty": b""}
        if file.suffix == ".safetensors":  # in other files, some bits have no meaning
            middle = len(whole) // 2
            damages["flipped"] = whole[:middle] + bytes([whole[middle] ^ 64]) + whole[middle + 1 :]
        for damage, content in damages.items():
            file.write_bytes(content)
            caplog.clear()
            assert last_checkpoint(newest.parent) == str(newest.parent / "checkpoint-2"), (file.name, damage)
            assert file.name in caplog.text and "is skipped" in caplog.text, (file.name, damage)
        file.unlink()
        assert last_checkpoint(newest.parent) == str(newest.parent / "checkpoint-2"), file.name
        file.write_bytes(whole)
    sums = newest / CHECKSUMS
    sums.write_text("[]")
    assert last_checkpoint(newest.parent) == str(newest.parent / "checkpoint-2")
    sums.write_text('{"model.safetensors": 1}')  # of a version with another checksum
    assert last_checkpoint(newest.parent) == str(newest)
    shutil.rmtree(newest)
    newest.mkdir()
    assert last_checkpoint(newest.parent) == str(newest.parent / "checkpoint-2")
    assert last_checkpoint(tmp_path / "nowhere") is None


def test_no_flipped_bit_of_an_archive_is_an_untyped_error(run, tmp_path):
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    file = folder / "checkpoint-3" / "scheduler.pt"
    whole = file.read_bytes()
    entry = whole.index(b"PK\1\2")  # of the table of contents; version, flags and compression are in bytes 6 to 12
    for place in range(8 * entry + 48, 8 * entry + 96):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        file.write_bytes(flipped)
        assert last_checkpoint(folder) in {str(folder / "checkpoint-3"), str(folder / "checkpoint-2")}


def test_a_full_disk_leaves_the_last_checkpoint(run, tmp_path):
    """By the largest size that a file may have; with room again, training goes on and is equal."""
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.rmtree(folder / "checkpoint-3")
    settings = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}

    def go_on():
        model, processor = tiny.composite(settings=tiny.modalities("image", "audio", "imu"))
        again = trainer(model, processor, folder, **settings)
        again.train(resume_from_checkpoint=last_checkpoint(folder))
        return load_file(folder / "checkpoint-3" / "model.safetensors")

    usual, rng = resource.getrlimit(resource.RLIMIT_FSIZE), random.Random(0)
    size = (run / "checkpoint-3" / "model.safetensors").stat().st_size
    try:
        for _ in range(2):
            resource.setrlimit(resource.RLIMIT_FSIZE, (rng.randrange(size), usual[1]))
            with pytest.raises((OSError, RuntimeError, SafetensorError), match="."):
                go_on()
            assert last_checkpoint(folder) == str(folder / "checkpoint-2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    expected, found = load_file(run / "checkpoint-3" / "model.safetensors"), go_on()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
