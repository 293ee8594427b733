"""PEFT's methods on a composite: merged, together, by row, before media."""

import pytest
import torch
from peft import (
    AdaLoraConfig,
    AutoPeftModelForCausalLM,
    BOFTConfig,
    FourierFTConfig,
    HRAConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    RandLoraConfig,
    TrainableTokensConfig,
    VBLoRAConfig,
    VeraConfig,
    get_peft_model,
)
from transformers import AutoModelForCausalLM, AutoProcessor, pipeline

from modeling_tests import tiny
from modeling_tests.checks import last_logits
from transformers_anymodality import lora_config


def spread(adapted, adapter: str = "default", std: float = 0.2) -> None:
    """Adds noise to what an adapter trains: fresh ones change nothing."""
    adapted.set_adapter(adapter)
    generator = torch.Generator().manual_seed(sum(map(ord, adapter)))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(std * torch.randn(parameter.shape, generator=generator))


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


# --- every method -----------------------------------------------------------------------------------------------------

LAYERS = r".*language_model.*\.(q_proj|v_proj)"
CAUSAL = {"task_type": "CAUSAL_LM"}
METHODS = {
    "LoRA": lambda model: lora_config(model, r=2),
    "DoRA": lambda model: lora_config(model, r=2, use_dora=True),
    "rsLoRA": lambda model: lora_config(model, r=2, use_rslora=True),
    "PiSSA": lambda model: lora_config(model, r=2, init_lora_weights="pissa"),
    "LoRA, its own defaults": lambda model: LoraConfig(r=2, target_modules="all-linear", **CAUSAL),
    "LoRA beside embeddings": lambda model: lora_config(
        model, r=2, modules_to_save=["embed_tokens", "lm_head", "image_aligner"]
    ),
    "LoRA and new tokens": lambda model: lora_config(model, r=2, trainable_token_indices=[24, 25]),
    "AdaLoRA": lambda model: AdaLoraConfig(target_modules=LAYERS, total_step=10, **CAUSAL),
    "IA3": lambda model: IA3Config(
        target_modules=r".*language_model.*\.(k_proj|v_proj|down_proj)",
        feedforward_modules=r".*language_model.*\.down_proj",
        **CAUSAL,
    ),
    "VeRA": lambda model: VeraConfig(r=4, target_modules=LAYERS, **CAUSAL),
    "LoHa": lambda model: LoHaConfig(r=2, target_modules=LAYERS, **CAUSAL),
    "LoKr": lambda model: LoKrConfig(r=2, target_modules=LAYERS, **CAUSAL),
    "OFT": lambda model: OFTConfig(oft_block_size=8, target_modules=LAYERS, **CAUSAL),
    "BOFT": lambda model: BOFTConfig(boft_block_size=4, target_modules=LAYERS, **CAUSAL),
    "HRA": lambda model: HRAConfig(r=2, target_modules=LAYERS, **CAUSAL),
    "FourierFT": lambda model: FourierFTConfig(n_frequency=20, target_modules=LAYERS, **CAUSAL),
    "VB-LoRA": lambda model: VBLoRAConfig(
        r=2, num_vectors=8, vector_length=8, topk=2, target_modules=LAYERS, **CAUSAL
    ),
    "RandLora": lambda model: RandLoraConfig(r=4, target_modules=LAYERS, **CAUSAL),
    "layer norms": lambda model: LNTuningConfig(target_modules=r".*language_model.*layernorm", **CAUSAL),
    "tokens": lambda model: TrainableTokensConfig(
        token_indices=[24, 25], target_modules="language_model.model.embed_tokens", **CAUSAL
    ),
}
QUICK = ("LoRA", "DoRA", "IA3", "VeRA")


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in METHODS]
)
def test_each_method_trains_saves_loads_and_merges(tmp_path, method):
    model, processor = tiny.composite(settings=tiny.modalities("image"))
    model.save_pretrained(tmp_path / "base", processor=processor)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    inputs = tiny.inputs(processor, tiny.chat("image", "yes no what ?"), tiny.chat("what ?"))  # 24, 25: yes, no
    plain = last_logits(model, inputs)
    adapted = get_peft_model(model, METHODS[method](model))
    spread(adapted, std=0.1)
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == processor.image_token_id, -100)
    adapted.train()(**inputs, labels=labels).loss.backward()
    assert not [name for name, p in adapted.named_parameters() if p.requires_grad and p.grad is None]
    expected = last_logits(adapted.eval(), inputs)
    assert (expected - plain).abs().max() > 1e-3
    output = adapted.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert output.shape[0] == 2
    adapted.save_pretrained(tmp_path / "adapter")
    again = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")  # which knows the base by its folder
    torch.testing.assert_close(last_logits(again.eval(), inputs), expected, atol=1e-5, rtol=1e-5)
    merged = again.merge_and_unload()
    torch.testing.assert_close(last_logits(merged, inputs), expected, atol=1e-4, rtol=1e-4)
    merged.save_pretrained(tmp_path / "merged", processor=processor)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(last_logits(whole, inputs), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["gemma2", "gpt2"])
def test_tied_embeddings_are_merged_and_loaded(tmp_path, model_type):
    model, processor = tiny.composite(model_type, tiny.modalities("image"))
    embeddings = {"gemma2": "embed_tokens", "gpt2": "wte"}[model_type]
    adapted = get_peft_model(model, lora_config(model, r=2, modules_to_save=[embeddings, "image_aligner"]))
    spread(adapted, std=0.1)
    inputs = tiny.inputs(processor, tiny.chat("image", "what ?"))
    expected = last_logits(adapted.eval(), inputs)
    adapted.merge_and_unload().save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(last_logits(again, inputs), expected, atol=1e-4, rtol=1e-4)


def test_weighted_adapters():
    model, processor = tiny.composite(settings=tiny.modalities("image"))
    inputs = tiny.inputs(processor, tiny.chat("image", "what ?"))
    adapted = get_peft_model(model, lora_config(model, r=2, modules_to_save=[]), adapter_name="a")
    adapted.add_adapter("b", lora_config(model, r=2, modules_to_save=[]))
    seen = {}
    for name in ("a", "b"):
        spread(adapted, name)
        seen[name] = last_logits(adapted.eval(), inputs)
    for name, weights in {"first": [1.0, 0.0], "both": [0.5, 0.5]}.items():
        adapted.add_weighted_adapter(["a", "b"], weights, name, combination_type="cat")
        adapted.set_adapter(name)
        seen[name] = last_logits(adapted, inputs)
    torch.testing.assert_close(seen["first"], seen["a"], atol=1e-5, rtol=1e-5)
    assert min((seen["both"] - seen[name]).abs().max() for name in ("a", "b")) > 1e-3


def test_weighted_adapters_that_train_the_same_aligner_are_refused():
    model, _ = tiny.composite(settings=tiny.modalities("image"))
    adapted = get_peft_model(model, lora_config(model, r=2), adapter_name="a")
    adapted.add_adapter("b", lora_config(model, r=2))
    with pytest.raises(ValueError, match="target the same module with modules_to_save"):
        adapted.add_weighted_adapter(["a", "b"], [0.5, 0.5], "both", combination_type="cat")


# --- adapters by row --------------------------------------------------------------------------------------------------

ROWS = [
    tiny.chat("image", "what", seed=1),
    tiny.chat("what is this ?", seed=2),
    tiny.chat("audio", "image", "what", "image", "depth", seed=3),
    tiny.chat("depth", "image", "what", seed=4),
]


@pytest.mark.parametrize("names", [["b", "a", "a", "__base__"], ["a", "__base__", "b", "a"]], ids=str)
def test_each_row_has_its_own_adapter(names):
    model, processor = tiny.composite(settings=tiny.modalities("image", "audio", "depth"))
    model.generation_config.eos_token_id = None
    adapted = get_peft_model(model, lora_config(model, r=2), adapter_name="a")
    adapted.add_adapter("b", lora_config(model, r=3))
    for name in ("a", "b"):
        spread(adapted, name)
    inputs = tiny.inputs(processor, *ROWS)

    def answers(**kwargs):
        with torch.no_grad():
            beams = adapted.eval().generate(**inputs, **kwargs, max_new_tokens=4, do_sample=False, num_beams=2)
            return adapted(**inputs, **kwargs).logits, beams

    logits, beams = answers(adapter_names=names)
    alone = {}
    for name in ("a", "b"):
        adapted.set_adapter(name)
        alone[name] = answers()
    with adapted.disable_adapter():
        alone["__base__"] = answers()
    assert (alone["a"][0] - alone["b"][0]).abs().amax((1, 2)).min() > 1e-2
    for row, name in enumerate(names):
        torch.testing.assert_close(logits[row], alone[name][0][row], atol=1e-5, rtol=1e-5)
        assert beams[row].tolist() == alone[name][1][row].tolist()


def test_rows_of_adapters_inside_towers_are_refused():
    model, processor = tiny.composite(settings=tiny.modalities("image"))
    config = lora_config(model, r=2)
    config.target_modules = r".*(image_tower|language_model)\..*\.q_proj"
    adapted = get_peft_model(model, config, adapter_name="a").eval()
    with pytest.raises(ValueError, match="which see media, not rows"):
        adapted(**tiny.inputs(processor, *ROWS[:2]), adapter_names=["a", "__base__"])


# --- prompts ----------------------------------------------------------------------------------------------------------

PROMPTS = {
    "prompt tuning": lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    "P-tuning": lambda: PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=16),
    "prefix tuning": lambda: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
}
PROMPTED = [tiny.chat("image", "what is this ?", seed=1), tiny.chat("what is", "image", "this ?", "image", seed=3)]


@pytest.mark.parametrize("method", PROMPTS)
@pytest.mark.parametrize(
    "model_type",
    ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gpt2", "opt", "bloom", "mixtral", "qwen3"))],
)
def test_learned_prompts_stand_before_media(tmp_path, model_type, method):
    model, processor = tiny.composite(model_type, tiny.modalities("image"))
    model.generation_config.eos_token_id = None
    model.save_pretrained(tmp_path / "base")
    inputs = dict(tiny.inputs(processor, *PROMPTED))
    plain = last_logits(model, inputs)
    adapted = get_peft_model(model, PROMPTS[method]())
    spread(adapted, std=0.3)
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == processor.image_token_id, -100)
    adapted.train()(**inputs, labels=labels).loss.backward()
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert all("prompt_encoder" in name and p.grad.abs().max() > 0 for name, p in trained.items())
    adapted.eval()

    expected = last_logits(adapted, inputs)
    assert (expected - plain).abs().max() > 1e-2, "the prompt does not matter"
    other = {**inputs, "pixel_values": inputs["pixel_values"].flip(0, -1)}
    assert (last_logits(adapted, other) - expected).abs().amax(-1).min() > 1e-4, "media do not matter"
    adapted.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    torch.testing.assert_close(last_logits(again.eval(), inputs), expected, atol=1e-5, rtol=1e-5)

    kinds = {True: inputs, False: dict(tiny.inputs(processor, PROMPTED[1]))}  # with padding, and without
    for batch in kinds.values():
        output = adapted.generate(
            **batch, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        new = output.sequences[:, batch["input_ids"].shape[1] :]
        mask = torch.cat([batch["attention_mask"], torch.ones_like(new)], 1)
        whole = adapted(**{**batch, "input_ids": output.sequences, "attention_mask": mask}).logits[:, -5:-1]
        said = torch.stack(output.logits, 1)
        seen = said.isfinite()  # placeholders are never said
        torch.testing.assert_close(said[seen], whole[seen], atol=1e-4, rtol=1e-4)
    alone = last_logits(adapted, kinds[False])
    torch.testing.assert_close(alone, expected[1:], atol=1e-4, rtol=1e-4)


def test_prompts_before_a_model_that_reads_ids_are_refused():
    model, processor = tiny.composite("gemma3n_text", tiny.modalities("image"))
    adapted = get_peft_model(model, PROMPTS["prompt tuning"]())
    with pytest.raises(ValueError, match="such as prompt tuning, do not work"):
        adapted(**tiny.inputs(processor, PROMPTED[0]))


def test_prefix_tuning_without_a_cache_is_refused():
    model, processor = tiny.composite(settings=tiny.modalities("image"))
    adapted = get_peft_model(model, PROMPTS["prefix tuning"]())
    with pytest.raises(ValueError, match="leave out use_cache=False"):
        adapted.generate(**tiny.inputs(processor, PROMPTED[0]), max_new_tokens=3, use_cache=False)


def test_prompts_before_a_recurrent_state_are_refused_with_a_cache():
    model, processor = tiny.composite("bamba", tiny.modalities("image"))
    adapted = get_peft_model(model, PROMPTS["prompt tuning"]())
    inputs = tiny.inputs(processor, PROMPTED[0])
    with pytest.raises(ValueError, match="carries a state from token to token"):
        adapted.generate(**inputs, max_new_tokens=3)
    assert adapted.generate(**inputs, max_new_tokens=3, use_cache=False).shape[1] > inputs["input_ids"].shape[1]
