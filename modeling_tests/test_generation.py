"""Generation in all its modes gives what a plain forward pass says, and encodes each medium once."""

import pytest
import torch
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TextIteratorStreamer,
)

from modeling_tests import tiny
from modeling_tests.checks import Calls, last_logits, new_tokens, padded
from transformers_anymodality.model.media_encoding import split_media
from transformers_anymodality.utils.upstream import CACHE_NAME, CHUNKS_MEDIA


NEW = dict(max_new_tokens=6, do_sample=False)


@pytest.mark.parametrize("model_type", tiny.LANGUAGE_MODELS)
def test_cached_equals_uncached_and_batched_equals_single(model_type):
    model, processor = tiny.composite(model_type)
    model.generation_config.eos_token_id = None
    inputs = tiny.inputs(processor, *tiny.CHATS)
    cached = new_tokens(model.generate(**inputs, **NEW), inputs)
    uncached = new_tokens(model.generate(**inputs, **NEW, use_cache=False), inputs)
    single = [tiny.inputs(processor, chat) for chat in tiny.CHATS]
    alone = padded([new_tokens(model.generate(**row, **NEW), row) for row in single])
    assert cached.tolist() == uncached.tolist() == alone.tolist()


def test_what_no_cache_holds_goes_on_to_the_next_step():
    """RWKV's state is an output and an argument of its own, which it takes over by itself."""
    model, processor = tiny.composite("rwkv", tiny.modalities("image"))
    model.generation_config.eos_token_id = None
    inputs = tiny.inputs(processor, tiny.chat("image", "what is this ?"))
    expected = model.generate(**inputs, **NEW, use_cache=False)
    assert model.generate(**inputs, **NEW).tolist() == expected.tolist()


def test_each_medium_is_encoded_once(shared):
    model, processor = shared
    inputs = tiny.inputs(processor, tiny.CHATS[2])
    chunked = [{**NEW, "prefill_chunk_size": 4}] if CHUNKS_MEDIA else []
    for settings in (NEW, {**NEW, "use_cache": False}, {**NEW, "num_beams": 3}, *chunked):
        calls = {name: Calls(model.tower(name)) for name in ("image", "audio", "imu")}
        model.generate(**inputs, **settings)
        assert {name: call.items for name, call in calls.items()} == {"image": [2], "audio": [1], "imu": [1]}
        for call in calls.values():
            call.handle.remove()


def test_a_decoding_step_goes_straight_to_the_language_model(shared, monkeypatch):
    model, _ = shared
    given, placed, place = [], [], type(model).place_media
    monkeypatch.setattr(type(model), "place_media", lambda *arguments: placed.append(1) or place(*arguments))
    handle = model.language_model.register_forward_pre_hook(
        lambda _, __, arguments: given.append("input_ids" in arguments), with_kwargs=True
    )
    model.generate(torch.tensor([[4, 5, 6]]), max_new_tokens=4, min_new_tokens=4, do_sample=False)
    handle.remove()
    assert len(placed) == 1
    assert given == [False, True, True, True]


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"num_return_sequences": 1},
        {"num_beams": 2, "do_sample": False, "length_penalty": 0.5},
    ],
)
def test_beams_with_unequal_media_per_sample_equal_each_sample_alone(shared, settings):
    model, processor = shared
    inputs = tiny.inputs(processor, *tiny.CHATS)
    settings = {**NEW, "eos_token_id": None, **settings}
    together = new_tokens(model.generate(**inputs, **settings), inputs)
    rows = [tiny.inputs(processor, chat) for chat in tiny.CHATS]
    alone = torch.cat([new_tokens(model.generate(**row, **settings), row) for row in rows])
    assert together.tolist() == alone.tolist()


def test_return_sequences_see_their_own_sample(shared):
    model, processor = shared
    inputs = tiny.inputs(processor, *tiny.CHATS)
    torch.manual_seed(0)
    output = model.generate(**inputs, max_new_tokens=4, do_sample=True, num_return_sequences=3, top_k=1)
    greedy = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert output.tolist() == greedy.repeat_interleave(3, dim=0).tolist()


@pytest.mark.parametrize("cache", ["static", "offloaded"])
def test_other_caches(shared, cache):
    model, processor = shared
    if cache == "offloaded" and not torch.cuda.is_available():
        pytest.skip("offloading a cache needs an accelerator")
    inputs = tiny.inputs(processor, *tiny.CHATS)
    plain = model.generate(**inputs, **NEW)
    assert model.generate(**inputs, **NEW, cache_implementation=cache, disable_compile=True).tolist() == plain.tolist()


def test_chunked_prefill(shared):
    model, processor = shared
    inputs = tiny.inputs(processor, tiny.CHATS[2])
    if not CHUNKS_MEDIA:
        with pytest.raises(ValueError, match="`prefill_chunk_size` with media needs Transformers 5.23"):
            model.generate(**inputs, **NEW, prefill_chunk_size=5)
        inputs = tiny.inputs(processor, tiny.CHATS[1])
    plain = model.generate(**inputs, **NEW)
    assert model.generate(**inputs, **NEW, prefill_chunk_size=5).tolist() == plain.tolist()


def test_prompt_lookup_and_assistant(shared):
    model, processor = shared
    inputs = tiny.inputs(processor, tiny.CHATS[2])
    plain = model.generate(**inputs, **NEW)
    assert model.generate(**inputs, **NEW, prompt_lookup_num_tokens=2).tolist() == plain.tolist()
    assert model.generate(**inputs, **NEW, assistant_model=model.language_model).tolist() == plain.tolist()


def test_from_embeddings(shared):
    model, processor = shared
    inputs = tiny.inputs(processor, tiny.CHATS[2])
    plain = new_tokens(model.generate(**inputs, **NEW), inputs)
    rest = dict(inputs)
    embeds = model.get_input_embeddings()(rest.pop("input_ids"))
    assert model.generate(inputs_embeds=embeds, **rest, **NEW).tolist() == plain.tolist()
    media, _ = split_media(model.config.media_arguments, rest)
    finished = model.place_media(inputs["input_ids"], None, model.encode_media(media)[0]).inputs_embeds
    output = model.generate(inputs_embeds=finished.detach(), attention_mask=rest["attention_mask"], **NEW)
    assert output.tolist() == plain.tolist()


def test_streaming(shared):
    model, processor = shared
    inputs = tiny.inputs(processor, tiny.CHATS[2])
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True)
    output = model.generate(**inputs, **NEW, streamer=streamer)
    assert "".join(streamer) == processor.decode(new_tokens(output, inputs)[0])


def test_placeholders_are_never_generated(shared):
    model, processor = shared
    ids = model.config.placeholder_ids
    inputs = tiny.inputs(processor, *tiny.CHATS)
    torch.manual_seed(0)
    output = model.generate(**inputs, max_new_tokens=30, do_sample=True, temperature=100.0, top_k=0)
    assert not torch.isin(new_tokens(output, inputs), torch.tensor(ids)).any()


@pytest.mark.parametrize("model_type", [name for name in tiny.LANGUAGE_MODELS if name != "mamba"])
def test_several_turns_on_one_cache(model_type):
    """Each turn brings the whole conversation; what is cached is not encoded again, and nothing changes."""
    model, processor = tiny.composite(model_type)
    model.generation_config.eos_token_id = None
    cache, calls = DynamicCache(config=model.config.get_text_config()), Calls(model.image_tower)
    ids, images = torch.empty(1, 0, dtype=torch.long), []
    turns = ["user : <image> what is this ?", "user : and that ?", "user : <image> that <image> and this ?"]
    for turn, (text, new) in enumerate(zip(turns, (1, 0, 2), strict=True)):
        images += [tiny.medium("image", seed=10 * turn + i) for i in range(new)]
        fresh = processor(text=text, images=images[len(images) - new :] or None, return_tensors="pt")
        ids = torch.cat([ids, fresh["input_ids"]], dim=1)
        pixels = processor.process_media({"image": images})[0]["pixel_values"]
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
        calls.items.clear()
        cached = model.generate(**inputs, **NEW, **{CACHE_NAME: cache})
        assert sum(calls.items) == new
        assert cached.tolist() == model.generate(**inputs, **NEW).tolist()
        ids = cached


def test_missing_media_and_wrong_counts_raise(shared):
    model, processor = shared
    inputs = dict(tiny.inputs(processor, tiny.CHATS[2]))
    with pytest.raises(ValueError, match="no imu was given.*remove_unused_columns"):
        model(**{name: value for name, value in inputs.items() if name != "imu_values"})
    with pytest.raises(ValueError, match="tokens: 6, features: 3"):
        model(**{**inputs, "pixel_values": inputs["pixel_values"][:1]})
    with pytest.raises(ValueError, match="typos"):
        model.generate(**inputs, max_new_tokens=1, pixel_valuess=1)


def test_logits_processors_meet_placeholders(shared):
    """What penalises or forbids tokens by the prompt's ids gives what it gives on the logits of whole forward passes."""
    model, processor = shared
    inputs = dict(tiny.inputs(processor, tiny.CHATS[2]))
    settings = dict(repetition_penalty=1.3, no_repeat_ngram_size=2, bad_words_ids=[[5]])
    found = model.generate(**inputs, **NEW, eos_token_id=None, **settings)
    processors = LogitsProcessorList(
        [RepetitionPenaltyLogitsProcessor(1.3), NoRepeatNGramLogitsProcessor(2), NoBadWordsLogitsProcessor([[5]])]
    )
    placeholders, expected = [row.token_id for row in model.config.modalities.values()], inputs["input_ids"]
    for _ in range(NEW["max_new_tokens"]):
        scores = last_logits(model, {**inputs, "input_ids": expected, "attention_mask": torch.ones_like(expected)})
        scores = processors(expected, scores)
        scores[:, placeholders] = -torch.inf
        expected = torch.cat([expected, scores.argmax(-1, keepdim=True)], dim=1)
    assert found.tolist() == expected.tolist()
    assert found.tolist() != model.generate(**inputs, **NEW, eos_token_id=None).tolist()
