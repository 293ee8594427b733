"""What composing refuses, and leaves as it was."""

import copy

import pytest
import torch
from transformers import LlamaModel

from modeling_tests import composed_parts, tiny
from modeling_tests.composed_parts import IMAGE, Refused
from transformers_anymodality import ImageSpec, SignalFeatureExtractor, TextSpec, compose
from transformers_anymodality.aligners import LinearAlignerConfig
from transformers_anymodality.compose.part import _AUTO_PROCESSORS
from transformers_anymodality.modalities import MODALITIES
from transformers_anymodality.modalities._base import MEDIA, PROCESSOR_KINDS
from transformers_anymodality.towers._build import _HALVES


hub = composed_parts.hub
modality = composed_parts.modality


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
