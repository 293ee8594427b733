"""A checkpoint that an earlier version saved loads, and computes what it computed then.

`saved_checkpoint/` is a tiny composite with six modalities and its processor, as `save_pretrained` wrote them.
`recorded.safetensors` beside it holds the inputs of one chat, the logits, and the ids that greedy decoding gave.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoProcessor

from modeling_tests import system_checkpoints, tiny


SAVED = Path(__file__).parent / "saved_checkpoint"
CHAT = tiny.chat("image", "what is", "video", "audio", "imu", "depth", "thermal", "this ?")
CLOSE = dict(atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def recorded():
    return load_file(SAVED / "recorded.safetensors")


@pytest.fixture(params=["as saved", "saved again"])
def folder(request, tmp_path):
    if request.param == "as saved":
        return SAVED
    AutoModelForCausalLM.from_pretrained(SAVED).save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(SAVED).save_pretrained(tmp_path)
    return tmp_path


def test_the_model_computes_what_it_computed(folder, recorded):
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    inputs = {name: value for name, value in recorded.items() if name not in ("logits", "generated")}
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, recorded["logits"], **CLOSE)
    generated = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert generated.tolist() == recorded["generated"].tolist()


def test_the_processor_prepares_what_it_prepared(folder, recorded):
    inputs = tiny.inputs(AutoProcessor.from_pretrained(folder), CHAT)
    assert inputs.keys() == recorded.keys() - {"logits", "generated"}
    assert inputs["input_ids"].tolist() == recorded["input_ids"].tolist()
    for name, value in inputs.items():
        torch.testing.assert_close(value, recorded[name], **CLOSE)


def test_saving_again_changes_no_weight(tmp_path):
    AutoModelForCausalLM.from_pretrained(SAVED).save_pretrained(tmp_path)
    before, after = (load_file(path / "model.safetensors") for path in (SAVED, tmp_path))
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("name", sorted(path.name for path in system_checkpoints.SAVED.iterdir()))
def test_published_systems_load_too(name, tmp_path):
    folder = system_checkpoints.write(name, tmp_path)
    recorded = load_file(folder / "recorded.safetensors")
    processor = AutoProcessor.from_pretrained(folder)
    inputs = tiny.inputs(processor, system_checkpoints.chat(list(processor.modalities)))
    assert inputs["input_ids"].tolist() == recorded["input_ids"].tolist()
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits[0, -1], recorded["logits"], atol=1e-4, rtol=0)
    generated = model.generate(**inputs, **system_checkpoints.NEW)
    assert generated[0, inputs["input_ids"].shape[1] :].tolist() == recorded["generated"].tolist()
