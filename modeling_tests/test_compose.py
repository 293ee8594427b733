"""Composing: every way to name a part, borrowed parts, and towers whose output length follows the item."""

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    CLIPVisionModel,
    LlamaConfig,
    Wav2Vec2FeatureExtractor,
    WhisperModel,
)

from modeling_tests import composed_parts, tiny
from modeling_tests.checks import TIGHT, last_logits
from modeling_tests.composed_parts import IMAGE, same, weights
from transformers_anymodality import AnyModalityForCausalLM, TextSpec, compose
from transformers_anymodality.aligners import LinearAligner, LinearAlignerConfig


hub = composed_parts.hub
modality = composed_parts.modality


# --- ways to give a part --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["string", "path", "config", "model"])
def test_language_models_may_be_given_as(hub, way):
    loaded = AutoModelForCausalLM.from_pretrained(hub / "lm")
    source = {"string": str(hub / "lm"), "path": hub / "lm", "config": loaded.config, "model": loaded}[way]
    torch.manual_seed(0)
    model, processor = compose(
        source,
        {"image": {"tower": tiny.vision_config(), **IMAGE}},
        tokenizer=tiny.tokenizer() if way == "config" else None,
    )
    assert type(model) is AnyModalityForCausalLM and not model.training
    kept = AutoModelForCausalLM.from_pretrained(hub / "lm").state_dict()
    equal = [torch.equal(value, model.language_model.state_dict()[name][: len(value)]) for name, value in kept.items()]
    assert all(equal) == (way != "config")
    if way == "model":
        assert model.language_model is loaded
    assert torch.isfinite(last_logits(model, tiny.inputs(processor, tiny.chat("image", "what")))).all()


@pytest.mark.parametrize("way", ["string", "path", "loaded"])
def test_tokenizers_may_be_given_as(hub, way):
    given = {
        "string": str(hub / "bare tokenizer"),
        "path": hub / "bare tokenizer",
        "loaded": AutoTokenizer.from_pretrained(hub / "bare tokenizer"),
    }[way]
    _, processor = compose(
        hub / "lm",
        {"image": {"tower": tiny.vision_config(), **IMAGE}},
        given,
        chat_template="{% for m in messages %}{{ m.content }}!{% endfor %}",
    )
    assert processor.apply_chat_template(tiny.chat("image", "what")) == "<image> what !"
    assert processor.tokenizer.padding_side == "left"


@pytest.mark.parametrize("way", ["string", "path", "config", "model", "alone"])
def test_towers_may_be_given_as(hub, way):
    loaded = CLIPVisionModel.from_pretrained(hub / "tower")
    source = {"string": str(hub / "tower"), "path": hub / "tower", "config": loaded.config, "model": loaded}
    settings = source["path"] if way == "alone" else {"tower": source[way], "aligner": "linear", "num_tokens": 2}
    if way == "config":
        settings["processor"] = tiny.image_processor()
    if way == "alone":
        settings = str(settings)
    model, processor = compose(tiny.language_model(), {"image": settings}, tokenizer=tiny.tokenizer())
    kept = weights(model.image_tower)  # all but what nobody reads
    assert same(kept, {name: value for name, value in weights(loaded).items() if name in kept}) == (way != "config")
    assert processor.image_processor.to_dict() == tiny.image_processor().to_dict() | (
        {}
        if way == "config"
        else {"image_processor_type": processor.image_processor.to_dict()["image_processor_type"]}
    )
    assert tiny.inputs(processor, tiny.chat("image"))["pixel_values"].shape == (1, 3, 32, 32)


@pytest.mark.parametrize("way", ["string", "path", "loaded", "with the tower"])
def test_processors_may_be_given_as(hub, way):
    given = {
        "string": str(hub / "images"),
        "path": hub / "images",
        "loaded": tiny.image_processor(),
        "with the tower": None,
    }[way]
    tower = hub / ("tower" if way == "with the tower" else "tower alone")
    _, processor = compose(
        tiny.language_model(), {"image": {**IMAGE, "tower": tower, "processor": given}}, tokenizer=tiny.tokenizer()
    )
    assert (
        processor.image_processor.crop_size == {"height": 32, "width": 32}
        or processor.image_processor.crop_size.height == 32
    )


@pytest.mark.parametrize("way", ["name", "dict", "config", "module", "default"])
def test_aligners_may_be_given_as(way):
    config = LinearAlignerConfig(feature_size=24, hidden_size=64, feature_length=17, num_tokens=2)
    given = {
        "name": "linear",
        "dict": {"type": "linear", "bias": False},
        "config": config,
        "module": LinearAligner(config),
        "default": None,
    }[way]
    settings = {"tower": tiny.vision_config(), "processor": tiny.image_processor(), "aligner": given}
    if way in ("name", "dict"):
        settings["num_tokens"] = 2
    model, processor = compose(tiny.language_model(), {"image": settings}, tokenizer=tiny.tokenizer())
    assert model.image_aligner.config.model_type == (
        "perceiver_resampler_aligner" if way == "default" else "linear_aligner"
    )
    assert (model.image_aligner.projection.bias is None) == (way == "dict")
    if way == "module":
        assert model.image_aligner is given
    inputs = tiny.inputs(processor, tiny.chat("image"))
    assert (inputs["input_ids"] == processor.image_token_id).sum() == model.image_aligner.config.num_tokens
    model(**inputs)


def test_whole_models_give_their_encoding_half():
    whole = WhisperModel(tiny.whisper_config())
    model, _ = compose(
        tiny.language_model(),
        {"audio": {"tower": whole, "processor": tiny.feature_extractor(), "aligner": "linear"}},
        tokenizer=tiny.tokenizer(),
    )
    assert same(weights(model.audio_tower), weights(whole.encoder))


def test_embeddings_grow_only_if_they_must():
    for vocabulary, rows in (
        (len(tiny.WORDS), len(tiny.WORDS) + 1),
        (len(tiny.WORDS) + 1, len(tiny.WORDS) + 1),
        (64, 64),
    ):
        language = AutoModelForCausalLM.from_config(
            LlamaConfig(
                vocab_size=vocabulary, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
            )
        )
        before = weights(language)
        model, processor = compose(
            language, {"image": {"tower": tiny.vision_config(), **IMAGE}}, tokenizer=tiny.tokenizer()
        )
        embeddings, head = language.get_input_embeddings().weight, language.get_output_embeddings().weight
        assert (
            len(embeddings)
            == len(head)
            == rows
            == model.config.get_text_config().vocab_size
            == language.config.vocab_size
        )
        assert processor.image_token_id == len(tiny.WORDS) == model.config.image_token_id < rows
        for weight, name in ((embeddings, "model.embed_tokens.weight"), (head, "lm_head.weight")):
            assert torch.equal(weight[:vocabulary], before[name])
            if rows > vocabulary:
                torch.testing.assert_close(weight[-1], before[name].mean(0))
        assert model(**tiny.inputs(processor, tiny.chat("image", "what"))).logits.shape[-1] == rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_placeholders_that_were_added_are_told_apart_by_their_embeddings(dtype):
    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    language = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=len(tiny.WORDS), **sizes), dtype=dtype)
    model, processor = compose(language, tiny.modalities("image", "audio", "imu"), tokenizer=tiny.tokenizer())
    inputs = dict(tiny.inputs(processor, tiny.chat("image", "what", "imu", "audio", "and", "image")))
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    expected = model(**inputs).logits
    del inputs["input_ids"]
    assert torch.equal(model(inputs_embeds=embeds, **inputs).logits, expected)


def test_placeholders_that_the_tokenizer_has_are_reused():
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|picture|>"]})
    language = tiny.language_model()
    language.resize_token_embeddings(len(tokenizer))
    settings = {"image": {"tower": tiny.vision_config(), **IMAGE, "token": "<|picture|>"}}
    model, processor = compose(language, settings, tokenizer=tokenizer)
    assert len(processor.tokenizer) == len(tokenizer) == model.get_input_embeddings().num_embeddings
    assert processor.image_token_id == tokenizer.convert_tokens_to_ids("<|picture|>")
    assert "<|picture|>" in processor.apply_chat_template(tiny.chat("image"))


# --- borrowing ------------------------------------------------------------------------------------------------------


def test_borrowed_parts_are_one_part():
    settings = {
        "image": {
            "tower": tiny.vision_config(),
            "processor": tiny.image_processor(),
            "select_layer": -2,
            "aligner": "linear",
        },
        "depth": {"tower": "image", "aligner": "image"},
        "video": {"tower": "image", "aligner": "image", "num_frames": 2},
        "thermal": {"tower": "image", "aligner": {"type": "linear"}, "processor": tiny.image_processor()},
    }
    model, processor = tiny.composite(settings=settings)
    assert model.part_names == ["image_tower", "image_aligner", "thermal_aligner", "language_model"]
    for name in settings:
        assert model.tower(name) is model.image_tower and model.config.modalities[name].select_layer == -2
    assert model.aligner("depth") is model.aligner("video") is model.image_aligner is not model.aligner("thermal")
    assert set(processor.sub_processor_names) == {"image_processor", "thermal_image_processor"}
    # 17 features a frame, one token each
    assert {name: row.num_tokens for name, row in processor.modalities.items()} == {
        "image": 17,
        "depth": 17,
        "thermal": 17,
        "video": 34,
    }
    chats = [tiny.chat("image", "depth", "thermal", "video"), tiny.chat("video", "what")]
    together = last_logits(model, tiny.inputs(processor, *chats))
    torch.testing.assert_close(
        together, torch.cat([last_logits(model, tiny.inputs(processor, chat)) for chat in chats]), **TIGHT
    )


def test_one_tower_object_belongs_to_one_modality():
    tower = AutoModel.from_config(tiny.vision_config())
    settings = {name: {"tower": tower, "processor": tiny.image_processor()} for name in ("image", "depth")}
    with pytest.raises(ValueError, match="'image' and 'depth' are given the same tower object: let one borrow it"):
        compose(tiny.language_model(), settings, tokenizer=tiny.tokenizer())


def test_borrowers_may_name_their_processor_by_its_place(hub):
    settings = {
        "image": {"tower": tiny.vision_config(), **IMAGE},
        "depth": {"tower": "image", "aligner": "image", "processor": str(hub / "images")},
    }
    _, processor = compose(tiny.language_model(), settings, tokenizer=tiny.tokenizer())
    assert processor.depth_image_processor is not processor.image_processor
    assert processor(depth=tiny.medium("depth"))["depth_values"].shape == (1, 3, 32, 32)


# --- towers whose output length follows the item --------------------------------------------------------------------


def check_identities(model, processor, chats, tmp_path) -> None:
    """Batched equals one by one, and a reloaded model and processor equal these."""
    inputs = tiny.inputs(processor, *chats)
    together = last_logits(model, inputs)
    alone = [last_logits(model, tiny.inputs(processor, chat)) for chat in chats]
    torch.testing.assert_close(together, torch.cat(alone), **TIGHT)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, processor_again = AutoModelForCausalLM.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    inputs_again = tiny.inputs(processor_again, *chats)
    assert again.config.modalities == model.config.modalities
    orders = [{name: list(row.inputs) for name, row in one.config.modalities.items()} for one in (model, again)]
    orders += [{name: list(row.inputs) for name, row in p.modalities.items()} for p in (processor, processor_again)]
    assert orders[0] == orders[1] and orders[2] == orders[3]
    assert {k: v.tolist() for k, v in inputs_again.items()} == {k: v.tolist() for k, v in inputs.items()}
    assert torch.equal(last_logits(again, inputs_again), together)


def ear_chats() -> list[list[dict]]:
    return [tiny.chat("audio", "what is this ?"), tiny.chat("yes"), tiny.chat("audio", "and", "audio", seed=3)]


@pytest.mark.parametrize(
    "aligner",
    [
        "linear",
        {"type": "linear", "num_tokens": 3},
        {"type": "mlp", "pool": "stride", "pool_size": 4},
        {**tiny.RESAMPLER, "num_tokens": 3},
    ],
    ids=["linear", "pooled", "mlp", "resampler"],
)
def test_sounds_of_any_length(hub, aligner, tmp_path):
    settings = {"audio": {"tower": hub / "ear", "aligner": aligner}}
    model, processor = compose(tiny.language_model(), settings, tokenizer=tiny.tokenizer())
    tiny.spread(model.audio_aligner)
    assert type(processor.feature_extractor) is Wav2Vec2FeatureExtractor
    inputs = tiny.inputs(processor, *ear_chats())
    assert set(inputs) == {
        "input_ids",
        "attention_mask",
        "input_values",
        "audio_attention_mask",
        "audio_feature_lengths",
    }
    assert set(inputs) == set(processor.model_input_names)
    lengths = inputs["audio_feature_lengths"].tolist()
    expected = [int(model.audio_tower._get_feat_extract_output_lengths(n)) for n in (6000, 7500, 8500)]
    assert lengths == expected and len(set(lengths)) == 3
    counts = [(row == processor.audio_token_id).sum().item() for row in inputs["input_ids"]]
    config = model.audio_aligner.config
    assert counts == [
        config.count_tokens(1, lengths[0]),
        0,
        config.count_tokens(1, lengths[1]) + config.count_tokens(1, lengths[2]),
    ]
    check_identities(model, processor, ear_chats(), tmp_path)


def test_sounds_of_any_length_in_towers_that_read_the_padding(tmp_path):
    settings = {
        "audio": {"tower": tiny.wav2vec2_config("group"), "processor": Wav2Vec2FeatureExtractor(), "aligner": "linear"}
    }
    model, processor = tiny.composite(settings=settings)
    check_identities(model, processor, ear_chats(), tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"aligner": "linear"},
        {"aligner": "linear", "num_tokens": 3},
        {"aligner": "linear", "select_feature": "pooled"},
        {"aligner": {**tiny.RESAMPLER, "num_tokens": 2}, "select_layer": -2},
        {"aligner": {"type": "linear", "num_tokens": 2}, "select_feature": "pooled"},
    ],
    ids=["linear", "pooled", "class", "resampler", "expanded class"],
)
def test_a_text_tower(hub, modality, settings, tmp_path):
    modality(TextSpec(name="document"))
    model, processor = compose(
        tiny.language_model(), {"document": {"tower": hub / "reader", **settings}}, tokenizer=tiny.tokenizer()
    )
    tiny.spread(model.document_aligner)
    (tmp_path / "page.txt").write_text("one two three four five six")
    documents = ["yes no", tmp_path / "page.txt", "no"]
    chats = [
        [
            {
                "role": "user",
                "content": [{"type": "document", "document": d}, {"type": "text", "text": " what is this ?"}],
            }
        ]
        for d in documents[:1]
    ]
    chats.append(
        [
            {
                "role": "user",
                "content": [
                    {"type": "document", "path": documents[1]},
                    {"type": "document", "document": documents[2]},
                ],
            }
        ]
    )
    inputs = tiny.inputs(processor, *chats)
    assert inputs["document_values"].shape[0] == 3 and set(inputs) <= set(processor.model_input_names)
    check_identities(model, processor, chats, tmp_path / "saved")
    reloaded = AutoTokenizer.from_pretrained(tmp_path / "saved", subfolder="document_tokenizer")
    assert reloaded.get_vocab() == processor.document_tokenizer.get_vocab()
    with pytest.raises(ValueError, match="document 0: .*17 tokens.*16"):
        processor(text="<document>", document="yes " * 17)


def test_towers_keep_what_was_trainable():
    tower, language = CLIPVisionModel(tiny.vision_config()), tiny.language_model()
    tower.requires_grad_(False)
    language.model.layers.requires_grad_(False)
    model, _ = compose(language, {"image": {"tower": tower, **IMAGE}}, tokenizer=tiny.tokenizer())
    trainable = {name.rpartition(".")[0].split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {"image_aligner", "language_model"}
    assert not any(p.requires_grad for p in model.language_model.model.layers.parameters())


def test_dtype_is_for_what_is_loaded(hub):
    model, processor = compose(
        hub / "lm", {"image": {"tower": hub / "tower", "aligner": "linear"}}, dtype=torch.bfloat16
    )
    assert model.language_model.dtype == model.image_tower.dtype == torch.bfloat16
    assert model.dtype == torch.bfloat16
    model(**tiny.inputs(processor, tiny.chat("image", "what")))
