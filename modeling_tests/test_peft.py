"""PEFT's methods and arguments on a composite."""

import re

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoProcessor, pipeline

from modeling_tests import tiny
from modeling_tests.checks import last_logits
from transformers_anymodality import lora_config


def hit(model, config) -> set[str]:
    """Names of the layers that a config adapts."""
    adapted = get_peft_model(model, config)
    return {
        name.removeprefix("base_model.model.").partition(".lora_A")[0]
        for name, _ in adapted.named_parameters()
        if ".lora_A." in name
    }


# --- which layers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "pattern"),
    [
        (None, r".*_proj"),
        ("all-linear", r".*_proj"),
        (["q_proj", "v_proj"], r".*\.[qv]_proj"),
        ("q_proj", r".*\.q_proj"),
        (r"layers\.0\..*_proj", r"model\.layers\.0\..*_proj"),
        (r"language_model\.model\.layers\.1\.mlp\.\w+_proj", r"model\.layers\.1\.mlp\..*_proj"),
        (r".*\.(q_proj|v_proj)", r".*\.[qv]_proj"),
    ],
    ids=str,
)
def test_target_modules_are_of_the_language_model(given, pattern):
    model, _ = tiny.composite(settings=tiny.modalities("image", "audio"))
    layers = {
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and re.fullmatch(rf"language_model\.{pattern}", name)
    }
    assert layers and hit(model, lora_config(model, r=2, target_modules=given)) == layers


def test_target_modules_of_other_parts_are_refused():
    model, _ = tiny.composite(settings=tiny.modalities("image"))
    with pytest.raises(ValueError, match="'image_tower.*' fits no layer of the language model"):
        lora_config(model, target_modules="image_tower.*")


@pytest.mark.parametrize("saved", [None, ["image_aligner", "embed_tokens", "lm_head"]])
@pytest.mark.parametrize("model_type", ["llama", "bart"])
def test_a_config_made_on_a_wrapped_model_is_the_same(model_type, saved):
    model, _ = tiny.composite(model_type, tiny.modalities("image"))
    bare = lora_config(model, r=2).target_modules
    kwargs = {} if saved is None else {"modules_to_save": saved}
    adapted = get_peft_model(model, lora_config(model, r=2, **kwargs))
    second = lora_config(adapted, r=2)
    assert second.target_modules == bare
    adapted.add_adapter("second", second)


# Model type -> layers that LoRA could be added to, and would not learn in.
IDLE = {
    "mamba": ["dt_proj"],  # its weight is read, it is not called
    "bart": ["encoder_attn.q_proj", "encoder_attn.v_proj"],  # there is no encoder
    "deepseek_v32": ["indexer.wk", "indexer.wq_b"],  # it chooses what is attended to
    "mllama": ["layers.1.mlp.up_proj"],  # a block that is passed over without an image of its own kind
}


@pytest.mark.parametrize("model_type", IDLE)
def test_layers_that_would_not_learn_get_no_adapter(model_type):
    model, processor = tiny.composite(model_type, tiny.modalities("image"))
    model.train()
    state = torch.get_rng_state()
    config = lora_config(model, r=2, init_lora_weights=False)
    assert torch.equal(torch.get_rng_state(), state) and model.language_model.training
    names = [name for name, _ in model.named_modules()]
    for idle in IDLE[model_type]:
        assert any(name.endswith(idle) for name in names)
        assert not any(name.endswith(idle) and re.fullmatch(config.target_modules, name) for name in names)
    adapted = get_peft_model(model, config)
    inputs = tiny.inputs(processor, tiny.chat("image", "what ?"))
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == processor.image_token_id, -100)
    adapted(**inputs, labels=labels).loss.backward()
    assert not [name for name, p in adapted.named_parameters() if p.requires_grad and p.grad is None]


def test_without_data_all_linear_layers_count():
    model, _ = tiny.composite("mamba", tiny.modalities("image"))
    assert "dt_proj" in lora_config(model.to("meta")).target_modules


# --- merging ----------------------------------------------------------------------------------------------------------


def test_a_merged_model_and_its_processor_are_saved_at_once(tmp_path):
    model, processor = tiny.composite(settings=tiny.modalities("image"))
    chat = tiny.chat("image", "what is this ?")
    adapted = get_peft_model(model, lora_config(model, r=2, init_lora_weights=False))
    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path / "whole", processor=processor)
    expected = last_logits(merged, tiny.inputs(processor, chat))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    inputs = tiny.inputs(AutoProcessor.from_pretrained(tmp_path / "whole"), chat)
    torch.testing.assert_close(last_logits(again, inputs), expected, atol=1e-6, rtol=1e-5)
    merged.save_pretrained(tmp_path / "model")
    for load in (AutoProcessor.from_pretrained, lambda folder: pipeline("any-to-any", model=folder)):
        with pytest.raises(OSError, match=r"but not its processor.*save_pretrained\(folder, processor=processor\)"):
            load(str(tmp_path / "model"))
