"""Which layers of a composite PEFT's LoRA goes to."""

import re

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModel, AutoModelForSequenceClassification

from modeling_tests import tiny
from modeling_tests.checks import TIGHT
from transformers_anymodality import lora_config
from transformers_anymodality.utils.upstream import CHECKPOINTING, set_checkpointing


def hit(model, config) -> set[str]:
    """Names of the layers that a config adapts."""
    adapted = get_peft_model(model, config)
    return {
        name.removeprefix("base_model.model.").partition(".lora_A")[0]
        for name, _ in adapted.named_parameters()
        if ".lora_A." in name
    }


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
    with pytest.raises(ValueError, match="'v_porj' fits no layer of the language model"):
        lora_config(model, target_modules=["q_proj", "v_porj"])


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForSequenceClassification])
def test_models_without_a_head_for_words_take_lora(auto, tmp_path):
    """Of the same layers; a reward model's scores are trained and saved with it."""
    model, processor = tiny.composite(settings=tiny.modalities("image"))
    model.save_pretrained(tmp_path / "whole")
    other = auto.from_pretrained(tmp_path / "whole")
    config = lora_config(other, r=2)
    assert config.target_modules == lora_config(model, r=2).target_modules
    adapted = get_peft_model(other, config).eval()
    tiny.spread(adapted)
    inputs = tiny.inputs(processor, tiny.chat("image", "what ?"))
    adapted.save_pretrained(tmp_path / "adapted")
    again = PeftModel.from_pretrained(auto.from_pretrained(tmp_path / "whole"), tmp_path / "adapted").eval()
    torch.testing.assert_close(again(**inputs)[0], adapted(**inputs)[0], **TIGHT)


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
    model.language_model.get_input_embeddings().eval()
    state = torch.get_rng_state()
    config = lora_config(model, r=2, init_lora_weights=False)
    assert torch.equal(torch.get_rng_state(), state) and model.language_model.training
    assert not model.language_model.get_input_embeddings().training
    names = [name for name, _ in model.named_modules()]
    for idle in IDLE[model_type]:
        assert any(name.endswith(idle) for name in names)
        assert not any(name.endswith(idle) and re.fullmatch(config.target_modules, name) for name in names)
    adapted = get_peft_model(model, config)
    inputs = tiny.inputs(processor, tiny.chat("image", "what ?"))
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == processor.image_token_id, -100)
    adapted(**inputs, labels=labels).loss.backward()
    assert not [name for name, p in adapted.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("reentrant", [False, True])
def test_targets_are_found_also_where_activations_are_computed_again(reentrant):
    model, _ = tiny.composite("mamba", tiny.modalities("image"))
    set_checkpointing(model.train(), True, **{f"{CHECKPOINTING}_kwargs": {"use_reentrant": reentrant}})
    # Reentrant checkpoints give no gradient to ask for: all count.
    assert ("dt_proj" in lora_config(model).target_modules) == reentrant
    assert "in_proj" in lora_config(model).target_modules


def test_without_data_all_linear_layers_count():
    model, _ = tiny.composite("mamba", tiny.modalities("image"))
    assert "dt_proj" in lora_config(model.to("meta")).target_modules
