"""Composing: every way to name a part, borrowed parts, towers of every kind, and what must be refused untouched."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    BertConfig,
    BertModel,
    CLIPVisionModel,
    LlamaConfig,
    LlamaModel,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WhisperModel,
)

from modeling_tests import tiny
from modeling_tests.checks import TIGHT, last_logits
from transformers_anymodality import (
    AnyModalityForCausalLM,
    ImageSpec,
    SignalFeatureExtractor,
    TextSpec,
    compose,
    register_modality,
)
from transformers_anymodality.aligners import LinearAligner, LinearAlignerConfig
from transformers_anymodality.compose.part import _AUTO_PROCESSORS
from transformers_anymodality.modalities import MODALITIES
from transformers_anymodality.modalities._base import MEDIA, PROCESSOR_KINDS
from transformers_anymodality.towers._build import _HALVES
from transformers_anymodality.towers.imu2clip import Imu2ClipConfig, Imu2ClipModel


IMAGE = {"processor": tiny.image_processor(), "aligner": "linear", "num_tokens": 2}


@pytest.fixture
def modality():
    """Registers modalities for one test."""
    known = dict(MODALITIES)
    yield register_modality
    MODALITIES.clear()
    MODALITIES.update(known)


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    """Parts in folders, as if on the Hub."""
    root = tmp_path_factory.mktemp("hub")
    tiny.language_model().save_pretrained(root / "lm")
    tiny.tokenizer().save_pretrained(root / "lm")
    tiny.tokenizer(None).save_pretrained(root / "bare tokenizer")
    for name in ("tower", "tower alone"):
        tower = CLIPVisionModel(tiny.vision_config())
        tiny.spread(tower)
        tower.save_pretrained(root / name)
    tiny.image_processor().save_pretrained(root / "tower")
    tiny.image_processor().save_pretrained(root / "images")
    ear = Wav2Vec2Model(tiny.wav2vec2_config())
    tiny.spread(ear)
    ear.save_pretrained(root / "ear")
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(root / "ear")
    reader = BertModel(bert_config())
    tiny.spread(reader)
    reader.save_pretrained(root / "reader")
    tokenizer = tiny.tokenizer(None)
    tokenizer.model_max_length = 16
    tokenizer.save_pretrained(root / "reader")
    return root


def bert_config() -> BertConfig:
    return BertConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        vocab_size=len(tiny.WORDS),
        max_position_embeddings=16,
    )


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- ways to give a part -------------------------------------------------------------------------------------------


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


# --- borrowing -----------------------------------------------------------------------------------------------------


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


# --- towers whose output length follows the item -------------------------------------------------------------------


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


# --- a modality of one's own ---------------------------------------------------------------------------------------

ECG = '''\
"""An electrocardiogram: two leads, 100 readings a second, four seconds, read by a small convolution."""
import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers_anymodality import SignalSpec, register_modality, register_tower

register_modality(SignalSpec(name="ecg", channels=("lead_1", "lead_2"), sampling_rate=100.0, seconds=4.0))


class EcgConfig(PreTrainedConfig):
    model_type = "ecg_tower"
    hidden_size: int = 12
    patch_size: int = 50


@register_tower
class EcgTower(PreTrainedModel):
    config: EcgConfig
    main_input_name = "input_values"

    def __init__(self, config):
        super().__init__(config)
        self.patches = torch.nn.Conv1d(2, config.hidden_size, config.patch_size, config.patch_size)
        self.post_init()

    def forward(self, input_values, **kwargs):
        return BaseModelOutput(last_hidden_state=self.patches(input_values.transpose(1, 2)).transpose(1, 2).tanh())
'''

USE_ECG = """\
import sys
import torch
import ecg
from transformers import AutoModelForCausalLM, AutoProcessor
model, processor = (auto.from_pretrained(sys.argv[1]) for auto in (AutoModelForCausalLM, AutoProcessor))
part = {"type": "ecg", "path": sys.argv[1] + "/heart.csv"}
inputs = processor.apply_chat_template([[{"role": "user", "content": [part, {"type": "text", "text": " what is this ?"}]}]],
    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
assert (inputs["input_ids"] == processor.ecg_token_id).sum() == 8
print(model(**inputs).logits[0, -1, :5].tolist())
"""


def test_a_main_input_that_forward_does_not_take_is_refused(monkeypatch):
    monkeypatch.setattr(Imu2ClipModel, "main_input_name", "samples")
    settings = {"imu": {"tower": Imu2ClipConfig(hidden_size=16, conv_channels=8, context_length=350)}}
    message = "`main_input_name` of Imu2ClipModel is 'samples', but its forward takes input_values"
    with Refused(ValueError, message) as refused:
        refused.compose(settings)


def test_a_sub_processor_that_nobody_registered_says_how(tmp_path):
    class Cloud(SignalFeatureExtractor):
        pass

    compose(
        tiny.language_model(),
        {"imu": {"tower": tiny.imu_config(), "processor": Cloud(channels=list("abcdef"), num_samples=64)}},
        tokenizer=tiny.tokenizer(),
    )[1].save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"AutoFeatureExtractor\.register\(YourConfig, Cloud\).*--import MODULE"):
        AutoProcessor.from_pretrained(tmp_path)


def test_a_modality_of_ones_own_in_forty_lines(modality, tmp_path, monkeypatch):
    assert ECG.count("\n") <= 40
    (tmp_path / "ecg.py").write_text(ECG)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "ecg", raising=False)
    import ecg

    model, processor = compose(
        tiny.language_model(), {"ecg": {"tower": ecg.EcgConfig(), "aligner": "linear"}}, tokenizer=tiny.tokenizer()
    )
    tiny.spread(model)
    (tmp_path / "saved").mkdir()
    heart = np.sin(np.arange(250)[:, None] / np.array([5, 7])).astype(np.float32)
    np.savetxt(tmp_path / "saved" / "heart.csv", heart, delimiter=",", header="lead_1,lead_2", comments="", fmt="%.9g")
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    inputs = tiny.inputs(
        processor,
        [{"role": "user", "content": [{"type": "ecg", "ecg": heart}, {"type": "text", "text": " what is this ?"}]}],
    )
    assert inputs["ecg_values"].shape == (1, 400, 2)
    expected = model(**inputs).logits[0, -1, :5]
    run = subprocess.run(
        [sys.executable, "-c", USE_ECG, str(tmp_path / "saved")], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    torch.testing.assert_close(
        torch.tensor(json.loads(run.stdout.strip().splitlines()[-1])), expected, atol=1e-5, rtol=1e-4
    )
    monkeypatch.delitem(MODALITIES, "ecg")  # as in a process that does not import the definition
    with pytest.raises(ValueError, match="Unknown modality 'ecg'"):
        AutoProcessor.from_pretrained(tmp_path / "saved")


# --- what is refused, and leaves everything as it was --------------------------------------------------------------


class Refused:
    """Composes inside; checks that it raises, and that language model, tower and tokenizer are as they were."""

    def __init__(self, kind, message: str):
        self.raises = pytest.raises(kind, match=message)
        self.language, self.tokenizer, self.tower = (
            tiny.language_model(),
            tiny.tokenizer(),
            CLIPVisionModel(tiny.vision_config()),
        )
        self.before = self.state()

    def state(self):
        modules = [weights(self.language), weights(self.tower)]
        return (
            modules,
            [self.language.config.to_dict(), self.tower.config.to_dict()],
            self.tokenizer.get_vocab(),
            [
                self.tokenizer.chat_template,
                self.tokenizer.padding_side,
                self.tokenizer.special_tokens_map,
                self.language.training,
                self.tower.training,
            ],
        )

    def __enter__(self):
        self.raises.__enter__()
        return self

    def __exit__(self, *exc):
        assert self.raises.__exit__(*exc)
        (before, *rest_before), (now, *rest_now) = self.before, self.state()
        assert all(same(a, b) for a, b in zip(before, now, strict=True)) and rest_before == rest_now
        return True

    def compose(self, modalities, **kwargs):
        given = {
            name: {"tower": self.tower, "processor": tiny.image_processor(), **row} if "tower" not in row else row
            for name, row in modalities.items()
        }
        return compose(
            kwargs.pop("language_model", self.language),
            given,
            tokenizer=kwargs.pop("tokenizer", self.tokenizer),
            **kwargs,
        )


@pytest.mark.parametrize(
    "modalities, message",
    [
        # names and settings
        ({"imge": {}}, "Unknown modality 'imge'. Did you mean 'image'"),
        (
            {"image": {"alinger": "linear"}},
            r"Unknown settings \['alinger'\] for modality 'image'. Did you mean 'aligner'",
        ),
        ({"imu": {"tower": tiny.imu_config(), "sample_rate": 5}}, "Did you mean 'sampling_rate'"),
        (
            {"image": {"aligner": "perciever_resampler"}},
            "Unknown aligner 'perciever_resampler'. Did you mean 'perceiver_resampler'",
        ),
        ({"image": {"aligner": {"type": "linaer"}}}, "Unknown aligner 'linaer'. Did you mean 'linear'"),
        (
            {"image": {"aligner": {"type": "linear", "num_token": 3}}},
            r"Unknown settings \['num_token'\] for the aligner of 'image'.* Did you mean 'num_tokens'",
        ),
        ({"image": {"aligner": {"depth": 1}}}, "aligner of 'image'.*\"type\""),
        ({"image": {"aligner": 5}}, "aligner of 'image'.*int"),
        ({"image": {"tower": None}}, "'image' needs a `tower`"),
        ({"image": {"aligner": "linear", "select_feature": "pathces"}}, "select_feature.*'pathces'"),
        # sizes that do not fit
        (
            {"image": {"aligner": LinearAlignerConfig(feature_size=7, hidden_size=64)}},
            "aligner of 'image' goes from width 7 to 64, but .*have 24 and 64",
        ),
        ({"image": {"aligner": LinearAlignerConfig(feature_size=24, hidden_size=65)}}, "goes from width 24 to 65"),
        ({"image": {"aligner": {"type": "mlp", "pool": "pixel_shuffle"}}}, "pixel_shuffle.*17.*class token"),
        (
            {"image": {"aligner": LinearAlignerConfig(feature_size=24, hidden_size=64), "num_tokens": 4}},
            "num_tokens=4.*aligner.*'image'",
        ),
        (
            {
                "image": {
                    "aligner": LinearAlignerConfig(feature_size=24, hidden_size=64, feature_length=1, num_tokens=4)
                }
            },
            "aligner of 'image'.*gives 68 tokens.*says 4",
        ),
        ({"image": {"select_layer": 9}}, "select_layer=9 is outside the tower's 3 layers"),
        # borrowing
        (
            {"image": {}, "depth": {"tower": "image"}, "thermal": {"tower": "depth"}},
            "'thermal' borrows the tower of 'depth', which is itself borrowed",
        ),
        ({"depth": {"tower": "image"}}, "'depth' borrows the tower of 'image', which is not being composed"),
        ({"image": {"tower": "image"}}, "'image' cannot borrow its own tower"),
        (
            {
                "image": {"aligner": "linear"},
                "depth": {"tower": "image", "aligner": "image"},
                "thermal": {"tower": "image", "aligner": "depth"},
            },
            "'thermal' borrows the aligner of 'depth', which is itself borrowed",
        ),
        ({"image": {"aligner": "image"}}, "'image' cannot borrow its own aligner"),
        (
            {"image": {"aligner": "linear"}, "imu": {"tower": tiny.imu_config(), "aligner": "image"}},
            "aligner of 'image' goes from width 24 to 64, but the tower of 'imu' and the language model have 16 and 64",
        ),
        (
            {
                "image": {"aligner": "linear", "num_tokens": 2},
                "depth": {"tower": "image", "aligner": "image", "num_tokens": 3},
            },
            "num_tokens.*'depth'.*'image'",
        ),
        (
            {"image": {"select_layer": -2}, "depth": {"tower": "image", "select_layer": -1}},
            "sets select_layer of a borrowed tower: set it in",
        ),
        # towers and processors that do not fit each other
        ({"image": {"tower": tiny.imu_config(), "processor": tiny.image_processor()}}, "tower of 'image'"),
        (
            {
                "imu": {
                    "tower": tiny.imu_config(),
                    "processor": SignalFeatureExtractor(channels=["a", "b"], num_samples=64),
                }
            },
            "tower of 'imu'.*cannot read",
        ),
        ({"image": {"num_tokens": 0}}, "num_tokens of 'image' is 0"),
        ({"image": {"num_tokens": "3"}}, "num_tokens of 'image' is '3'"),
        ({"imu": {"tower": tiny.imu_config(), "seconds": 9.0}}, "tower of 'imu'.*cannot read"),
        (
            {"audio": {"tower": tiny.whisper_config(), "processor": tiny.image_processor()}},
            "processor of 'audio' \\(CLIPImageProcessor",
        ),
        (
            {"image": {"tower": tiny.vision_config(), "processor": tiny.feature_extractor()}},
            "processor of 'image' \\(WhisperFeatureExtractor",
        ),
        (
            {"audio": {"tower": tiny.whisper_config()}},
            "No feature_extractor was found for modality 'audio': pass it as \"processor\"",
        ),
        (
            {"audio": {"tower": tiny.whisper_config(), "processor": "/nowhere/at/all"}},
            "No feature_extractor was found for modality 'audio' in /nowhere",
        ),
        # placeholders
        ({"image": {"token": "<x>"}, "depth": {"tower": "image", "token": "<x>"}}, "have the same placeholder token"),
        ({"image": {"token": "yes"}}, "'yes'.*ordinary"),
        ({"image": {"token": "</s>"}}, "'</s>'.*end"),
        ({"image": {"token": ""}}, "placeholder"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_refused_settings(modalities, message):
    with Refused(ValueError, message) as refused:
        refused.compose(modalities)


@pytest.mark.parametrize(
    "kwargs, kind, message",
    [
        ({"tokeniser": 1}, TypeError, "'tokeniser'.*Did you mean 'tokenizer'"),
        ({"dtpye": torch.float32}, TypeError, "'dtpye'.*Did you mean 'dtype'"),
        ({"local_file_only": True}, TypeError, "Did you mean 'local_files_only'"),
        (
            {"language_model": LlamaModel(tiny.language_model().config)},
            ValueError,
            "LlamaModel has no language-model head",
        ),
        ({"language_model": "/nowhere/at/all"}, OSError, "nowhere"),
        ({"language_model": 5}, TypeError, "language model"),
        ({"tokenizer": None}, ValueError, "pass `tokenizer=`.*--tokenizer"),
        ({"tokenizer": "/nowhere/at/all"}, (OSError, ValueError), "nowhere"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_refused_arguments(kwargs, kind, message):
    with Refused(kind, message) as refused:
        refused.compose({"image": {}}, **kwargs)


@pytest.mark.parametrize("modalities", [["image"], "image", None])
def test_modalities_that_are_no_table(modalities):
    with pytest.raises(TypeError, match="modalities.*dict"):
        compose(tiny.language_model(), modalities, tokenizer=tiny.tokenizer())


def test_plain_modules_and_unknown_files_are_no_towers(hub):
    for tower, kind, message in (
        (torch.nn.Linear(2, 2), TypeError, "A tower is a Hub id.*Linear"),
        ("/nowhere/at/all", OSError, "nowhere"),
        (5, TypeError, "A tower is"),
    ):
        with Refused(kind, message) as refused:
            refused.compose({"image": {"tower": tower, "processor": tiny.image_processor()}})


def test_a_tokenizer_without_padding_and_end():
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = None
    with Refused(ValueError, "neither a padding nor an end token") as refused:
        refused.compose({"image": {}}, tokenizer=tokenizer)
    tokenizer.eos_token = "</s>"
    _, processor = compose(
        tiny.language_model(), {"image": {"tower": tiny.vision_config(), **IMAGE}}, tokenizer=tokenizer
    )
    assert processor.tokenizer.pad_token == "</s>" and tokenizer.pad_token is None


def test_what_was_given_is_left_as_it_was():
    """But for the language model's embeddings, which grow."""
    tokenizer, settings = tiny.tokenizer(), tiny.modalities()
    before = copy.deepcopy(settings), tokenizer.get_vocab(), tokenizer.chat_template
    compose(tiny.language_model(), settings, tokenizer=tokenizer)
    assert repr(before[0]) == repr(settings)
    assert (tokenizer.get_vocab(), tokenizer.chat_template, tokenizer.padding_side) == (
        *before[1:],
        tiny.tokenizer().padding_side,
    )


def test_modalities_that_cannot_be_registered(modality):
    for spec, message in (
        (lambda: TextSpec(name="text"), "reserved"),
        (lambda: TextSpec(name="My Document"), "lower-case"),
        (lambda: TextSpec(name="image"), "already is a modality named 'image'"),
        (lambda: TextSpec(name="caption", argument="images"), "argument 'images'.*'image'"),
        (lambda: TextSpec(name="caption", argument="text"), "argument 'text'"),
    ):
        with pytest.raises(ValueError, match=message):
            modality(spec())
        assert "caption" not in MODALITIES


@pytest.mark.parametrize("field, value, known", [("medium", "map", MEDIA), ("processor_kind", "", PROCESSOR_KINDS)])
def test_kinds_of_media_that_cannot_be_registered(modality, field, value, known):
    class Own(TextSpec):
        pass

    setattr(Own, field, value)
    with pytest.raises(ValueError, match=f"`{field}` of Own is '{value}'.*{', '.join(map(repr, known))}"):
        modality(Own(name="cloud"))
    assert {"medium": _HALVES, "processor_kind": _AUTO_PROCESSORS}[field].keys() == {*known}


def test_two_processors_in_one_place(modality):
    modality(ImageSpec(name="xray", processor_attribute="image_processor"))
    settings = {
        "image": {"tower": tiny.vision_config(), **IMAGE},
        "xray": {"tower": tiny.vision_config(), **IMAGE, "processor": tiny.image_processor()},
    }
    with pytest.raises(ValueError, match="'image' and 'xray'.*image_processor"):
        compose(tiny.language_model(), settings, tokenizer=tiny.tokenizer())


def test_settings_that_a_given_processor_contradicts():
    given = SignalFeatureExtractor(channels=list("abcdef"), sampling_rate=50.0, num_samples=64)
    with Refused(ValueError, "'imu'.*sampling_rate.*32.*50") as refused:
        refused.compose({"imu": {"tower": tiny.imu_config(), "processor": given, "sampling_rate": 32}})
    with Refused(ValueError, "'imu'.*num_samples=450, .*num_samples=64") as refused:
        refused.compose({"imu": {"tower": tiny.imu_config(), "processor": given, "sampling_rate": 50, "seconds": 9}})
