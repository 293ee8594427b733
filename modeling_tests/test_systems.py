"""What every published system has here and never had: batches, mixtures, other language models, saving, caches."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoProcessor, BitsAndBytesConfig, DynamicCache

from modeling_tests import tiny
from modeling_tests.checks import TIGHT, last_logits, new_tokens, padded
from modeling_tests.tiny_systems import system
from transformers_anymodality import AnyModalityDataCollator
from transformers_anymodality.systems import SYSTEMS
from transformers_anymodality.utils.upstream import CACHE_NAME


NEW = dict(max_new_tokens=6, do_sample=False)
GREEDY = {**NEW, "min_new_tokens": 6}


@pytest.fixture(scope="module", params=list(SYSTEMS))
def named(request):
    model, processor = system(request.param)
    return request.param, model, processor


def medium(modality: str, seed: int = 0):
    if modality == "audio":
        return tiny.medium("audio", seed)
    return (
        tiny.medium(modality, seed)
        if modality in ("image", "video", "depth", "thermal", "imu")
        else own_medium(modality, seed)
    )


def own_medium(modality: str, seed: int):
    """Of a modality that one system alone has: what its spec makes up."""
    from transformers_anymodality.modalities import MODALITIES

    return MODALITIES[modality].dummy(None, {}, seed % 2)


def user(*parts: str, seed: int = 0) -> dict:
    modalities = {"image", "video", "audio", "imu", "depth", "thermal", "speech"}
    content = [
        {"type": part, part: medium(part, seed + i)} if part in modalities else {"type": "text", "text": part}
        for i, part in enumerate(parts)
    ]
    return {"role": "user", "content": content}


def chats(processor) -> list[list[dict]]:
    """One with each modality, one with all, one with two media of a modality, and one with none."""
    modalities = list(processor.modalities)
    return [
        *([user(modality, "What is it?", seed=i)] for i, modality in enumerate(modalities)),
        [user(*modalities, "What are they?", seed=7)],
        [user(modalities[0], modalities[0], "Which is the first?", seed=3)],
        [user("Say something.")],
    ]


def test_batched_generation_equals_one_by_one(named):
    _, model, processor = named
    several = chats(processor)
    inputs = tiny.inputs(processor, *several)
    together = new_tokens(model.generate(**inputs, **GREEDY), inputs)
    single = [tiny.inputs(processor, chat) for chat in several]
    assert together.tolist() == padded([new_tokens(model.generate(**row, **GREEDY), row) for row in single]).tolist()
    alone = torch.cat([last_logits(model, row) for row in single])
    torch.testing.assert_close(last_logits(model, inputs), alone, **TIGHT)


def test_every_medium_matters(named):
    _, model, processor = named
    for modality in processor.modalities:
        first, other = ([user(modality, "What is it?", seed=seed)] for seed in (1, 2))
        difference = last_logits(model, tiny.inputs(processor, first)) - last_logits(
            model, tiny.inputs(processor, other)
        )
        assert difference.abs().max() > 1e-5, modality


def test_reloaded_equals_saved(named, tmp_path):
    _, model, processor = named
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, processor_again = AutoModelForCausalLM.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    inputs, inputs_again = (tiny.inputs(p, *chats(p)) for p in (processor, processor_again))
    assert inputs.keys() == inputs_again.keys()
    for name, value in inputs.items():
        assert torch.equal(value, inputs_again[name]), name
    assert torch.equal(last_logits(model, inputs), last_logits(again, inputs_again))
    assert again.generation_config.to_diff_dict() == model.generation_config.to_diff_dict()


@pytest.mark.parametrize("model_type", ["gpt2", "qwen3", "mixtral"])
@pytest.mark.parametrize("name", list(SYSTEMS))
def test_any_language_model(name, model_type):
    model, processor = system(name, model_type)
    several = chats(processor)
    together = last_logits(model, tiny.inputs(processor, *several))
    alone = torch.cat([last_logits(model, tiny.inputs(processor, chat)) for chat in several])
    torch.testing.assert_close(together, alone, **TIGHT)


def test_several_turns_on_one_cache(named):
    _, model, processor = named
    first = next(iter(processor.modalities))
    chat = [user(*processor.modalities, "What are they?")]
    inputs, cache = tiny.inputs(processor, chat), DynamicCache(config=model.config.get_text_config())
    model.generate(**inputs, **GREEDY, **{CACHE_NAME: cache})
    chat += [{"role": "assistant", "content": "A dog."}, user(first, "And this?", seed=5)]
    longer = tiny.inputs(processor, chat)
    shared_ids = int((longer["input_ids"][0, : inputs["input_ids"].shape[1]] == inputs["input_ids"][0]).sum())
    if shared_ids < inputs["input_ids"].shape[1]:
        pytest.skip("this system's media all stand in front, so a later turn changes what was cached")
    cache.crop(inputs["input_ids"].shape[1] - cache.get_seq_length())
    cached = model.generate(**longer, **GREEDY, **{CACHE_NAME: cache})
    assert cached.tolist() == model.generate(**longer, **GREEDY).tolist()


def test_a_turn_of_words_alone_on_one_cache(named):
    """What media hid in an earlier turn stays hidden, and takes no position."""
    _, model, processor = named
    chat = [user(*processor.modalities, "What are they?")]
    inputs, empty = tiny.inputs(processor, chat), [DynamicCache(config=model.config.get_text_config()) for _ in "ab"]
    longer = tiny.inputs(processor, [*chat, {"role": "assistant", "content": "A dog."}, user("And then?")])
    past = inputs["input_ids"].shape[1]
    if not torch.equal(longer["input_ids"][:, :past], inputs["input_ids"]):
        pytest.skip("this system's prompt of a later turn begins otherwise, so nothing of the cache is used")
    expected = model.generate(**longer, **GREEDY, return_dict_in_generate=True, output_logits=True)
    for cache in empty:
        with torch.no_grad():
            model(**inputs, **{CACHE_NAME: cache})
    settings = {**GREEDY, CACHE_NAME: empty[0], "return_dict_in_generate": True, "output_logits": True}
    found = model.generate(**longer, **settings)
    torch.testing.assert_close(found.logits, expected.logits, **TIGHT)
    with torch.no_grad():
        rest = model(input_ids=longer["input_ids"][:, past:], **{CACHE_NAME: empty[1]}).logits[:, -1]
    torch.testing.assert_close(rest, last_logits(model, longer), **TIGHT)


def test_labels_are_what_the_assistant_says(named):
    _, model, processor = named
    modality = next(iter(processor.modalities))
    messages = [user(modality, "What is it?"), {"role": "assistant", "content": "A red square."}]
    batch = AnyModalityDataCollator(processor)([{"messages": messages}, {"messages": [user("Hi"), messages[1]]}])
    for row in batch["labels"]:
        said = processor.tokenizer.decode(row[row != -100], skip_special_tokens=True)
        assert said.strip().removesuffix("###").strip() == "A red square."
    trained = copy.deepcopy(model).train()
    loss = trained(**batch).loss
    loss.backward()
    aligners = [p for n, p in trained.named_parameters() if "_aligner." in n and p.grad is not None]
    assert loss.isfinite() and any(p.grad.abs().sum() > 0 for p in aligners)


def test_quantised(named, tmp_path):
    _, model, processor = named
    model.save_pretrained(tmp_path)
    quantised = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(load_in_4bit=True)
    )
    kinds = {type(module).__name__ for name, module in quantised.named_modules() if "language_model" not in name}
    assert "Linear4bit" not in kinds
    assert "Linear4bit" in {type(module).__name__ for module in quantised.language_model.modules()}
    inputs = tiny.inputs(processor, *chats(processor))
    assert last_logits(quantised, inputs).isfinite().all()
