"""Every registered modality keeps the promises of all, shown by the items that its spec makes up."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoProcessor

from modeling_tests import tiny
from modeling_tests.checks import TIGHT, last_logits, tiny_setting
from transformers_anymodality import MediaError, compose
from transformers_anymodality.modalities import MODALITIES
from transformers_anymodality.towers.precomputed import PrecomputedConfig


IMAGES = {"tower": tiny.vision_config(), "processor": tiny.image_processor(), "aligner": "linear", "num_tokens": 2}
# Modality -> settings for `compose` of a tiny model that has no other.
SETTINGS = {
    **tiny.modalities("image", "audio", "imu"),
    **dict.fromkeys(("depth", "thermal"), IMAGES),
    "video": {**IMAGES, "num_frames": 3},
    "speech": {"tower": PrecomputedConfig(hidden_size=24, context_length=8), "aligner": "linear"},
}


@pytest.fixture(scope="module", params=list(MODALITIES))
def made(request):
    """A model of one modality, its processor, and two items of different size."""
    name, spec = request.param, MODALITIES[request.param]
    settings = tiny_setting(SETTINGS, name, "SETTINGS in test_modalities.py")
    torch.manual_seed(0)
    model, processor = compose(tiny.language_model(), {name: settings}, tokenizer=tiny.tokenizer())
    tiny.spread(model)
    row = processor.modalities[name]
    items = [spec.dummy(processor.sub_processor(name), row.options, size) for size in (0, 1)]
    return spec, model, processor, items


def chat(spec, item) -> list[dict]:
    part = {"type": spec.name, spec.name: item}
    return [{"role": "user", "content": [part, {"type": "text", "text": " what is this ?"}]}]


def test_an_item_is_one_and_not_a_list(made):
    spec, _, processor, items = made
    assert all(spec.is_item(item) for item in items) and not spec.is_item(items)
    inputs = [
        processor(text=f"{spec.token} what", **{spec.argument: given}, return_tensors="pt")
        for given in (items[0], items[:1])
    ]
    assert inputs[0].keys() == inputs[1].keys()
    assert all(torch.equal(value, inputs[1][name]) for name, value in inputs[0].items())


def test_a_part_of_a_chat_is_what_an_argument_is(made):
    spec, _, processor, items = made
    text = processor.apply_chat_template(chat(spec, items[0]), add_generation_prompt=True)
    assert text.count(spec.token) == 1
    told = processor(text=text, **{spec.argument: items[0]}, return_tensors="pt")
    for name, value in tiny.inputs(processor, chat(spec, items[0])).items():
        assert torch.equal(value, told[name]), name


def test_placeholders_are_as_many_as_tokens(made):
    spec, model, processor, items = made
    placeholder = processor.tokenizer.convert_tokens_to_ids(spec.token)
    for item in items:
        inputs = tiny.inputs(processor, chat(spec, item))
        media = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
        tokens = model.get_modality_features(spec.name, **media).pooler_output[0]
        assert tokens.shape == ((inputs["input_ids"] == placeholder).sum(), model.config.text_config.hidden_size)
        assert len(tokens) > 0


def test_items_beside_each_other_are_as_alone_and_matter(made):
    spec, model, processor, items = made
    together = last_logits(model, tiny.inputs(processor, *(chat(spec, item) for item in items)))
    alone = torch.cat([last_logits(model, tiny.inputs(processor, chat(spec, item))) for item in items])
    torch.testing.assert_close(together, alone, **TIGHT)
    assert (alone[0] - alone[1]).abs().max() > 1e-4


def test_what_is_saved_prepares_and_computes_the_same(made, tmp_path):
    spec, model, processor, items = made
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    again, processor_again = (auto.from_pretrained(tmp_path) for auto in (AutoModelForCausalLM, AutoProcessor))
    inputs, inputs_again = (tiny.inputs(one, chat(spec, items[0])) for one in (processor, processor_again))
    assert inputs.keys() == inputs_again.keys()
    assert all(torch.equal(value, inputs_again[name]) for name, value in inputs.items())
    assert torch.equal(last_logits(model, inputs), last_logits(again, inputs_again))


def test_what_cannot_be_read_is_named(made):
    spec, _, processor, _ = made
    for wrong in ("gone.file", {"what": 1}, None):
        with pytest.raises((MediaError, ValueError), match=spec.name):
            processor(text=spec.token, **{spec.argument: [wrong]})
