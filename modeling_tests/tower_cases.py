"""Checks of any encoder as a tower beside a tiny language model, and which of them fail for which one.

What cannot be read is listed with its reason in `REFUSED`, and `compose` must say so. `test_any_tower.py` runs the
checks, and `docs/architectures.md` is written from the tables.
"""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, PreTrainedConfig, PreTrainedModel, T5Config

from modeling_tests import tiny
from modeling_tests.checks import TIGHT
from modeling_tests.tiny_own_towers import OWN_TOWERS, own_tower
from modeling_tests.tiny_processors import tiny_processor
from modeling_tests.tiny_tower_types import KINDS
from modeling_tests.tiny_towers import TIMM_FAMILIES, tiny_encoder, tiny_timm
from transformers_anymodality import TextSpec, compose, register_modality, set_trainable
from transformers_anymodality.modalities import MODALITIES
from transformers_anymodality.model.by_size import INPUT_SIZES
from transformers_anymodality.model.configuration import SIZES
from transformers_anymodality.model.frames import side_by_side
from transformers_anymodality.towers import load_tower, run_tower
from transformers_anymodality.towers._run import read_features
from transformers_anymodality.utils.tensors import padded_together


MODALITY_OF_KIND = {"series": "imu", "text": "document"}  # the other kinds are named as their modalities

_HOW_MANY = "gives another number of features for each sound, which it tells only when it runs on data"
_CALENDAR = "takes the calendar of the values beside them"

# Tower -> why it cannot be read.
REFUSED: dict[str, str] = {
    "vit_mae": "draws at random which patches it reads",
    "higgs_audio_v2_tokenizer": _HOW_MANY,
    **dict.fromkeys("autoformer informer time_series_transformer".split(), _CALENDAR),
    "timesfm": "takes the padding and a class of frequency beside the values",
    "cif": "gives as many features as words are spoken: it stands within an aligner",
}

# Tower -> check -> why it fails.
KNOWN: dict[str, dict[str, str]] = {
    "granite_speech5_encoder": {
        "plan": "padding changes its features, and those of a small copy not enough to be seen"
    },
    "patchtst": {"layer": "its `hidden_states` lack its last layer's, so that [-2] is one layer earlier"},
}

# Towers that are no stack of layers which a config can shorten; `select_layer` says so.
NO_LAYERS = (
    "align bit clap convnext convnextv2 cvt dac depth_pro dinov3_convnext donut-swin edgetam_vision_model efficientnet "
    "encodec fun_asr_nano_encoder nemotron3_5_transcribe_audio neucodec seamless_m4t seamless_m4t_v2 "
    "vibevoice_acoustic_tokenizer xcodec xcodec2 focalnet gemma3n_audio "
    "gemma3n_vision glpn groupvit hgnet_v2 hiera levit maskformer-swin mobilenet_v1 mobilenet_v2 mobilevit "
    "mobilevitv2 muse_spark_audio poolformer pp_ocrv5_mobile_rec pp_ocrv5_server_rec pp_ocrv6_small_rec "
    "pp_ocrv6_tiny_rec pvt pvt_v2 regnet resnet sam2_hiera_det_model sam2_vision_model sam3_vision_model swiftformer "
    "swin swin2sr swinv2 textnet timm_backbone timm_wrapper uvdoc vibevoice_acoustic_tokenizer_encoder "
    "videoprism_vision_model yolos "
    # ours
    "imu2clip precomputed "
    # timm
    "coatnet_nano_rw_224 convnext_atto hiera_tiny_224 mixer_s32_224 mobilenetv3_small_050 regnety_002 resnet10t "
    "swin_tiny_patch4_window7_224 test_efficientnet"
).split()
# With random weights, dozens of their layers wash out all that goes in.
WASHED_OUT = ("align", "efficientnet", "mobilevit", "mobilevitv2")
# Some processors add up its convolutions otherwise for several items than for one, or for weights elsewhere in memory.
ROUNDED = ("pe_audio_encoder", "textnet", "xcodec")

TEXT_TOWERS = {
    "bert": BertConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=64
    ),
    "t5": T5Config(d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=64),
}


# Settings without which a tower cannot read what its modality has.
SETTINGS: dict[str, dict[str, Any]] = {
    "timesfm2_5": {"channels_first": True, "per_frame": True}
}  # one channel at a time


@dataclass
class Case:
    """A tower in a composite, and the same tower untouched."""

    name: str
    kind: str
    config: PreTrainedConfig

    def __post_init__(self):
        self.modality = MODALITY_OF_KIND.get(self.kind, self.kind)
        self.medium = MODALITIES[self.modality].medium
        torch.manual_seed(0)
        self.whole = load_tower(self.config, self.medium, None).eval()
        tiny.spread(self.whole)

    def settings(self, tower: Any) -> dict[str, Any]:
        """Of its modality, for `compose`."""
        processor = sub_processor(self.name, self.kind, self.config)
        own = SETTINGS.get(self.name, {}) | ({} if processor is None else {"processor": processor})
        return {"tower": tower, "aligner": "linear", **own}

    def compose(self, **settings: Any) -> None:
        settings |= self.settings(copy.deepcopy(self.whole))
        language = copy.deepcopy(LANGUAGE_MODEL)
        self.model, self.processor = compose(language, {self.modality: settings}, tokenizer=tiny.tokenizer())
        self.media = [medium(self.kind, seed) for seed in (0, 1)]
        self.inputs = self.processor.process_media({self.modality: self.media})[0]

    @property
    def row(self) -> dict[str, Any]:
        return self.model.config.modalities[self.modality]

    def encode(self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> Any:
        names = {name.removeprefix(f"{self.modality}_") if name.endswith(SIZES) else name: name for name in inputs}
        return model.get_modality_features(self.modality, **{key: inputs[name] for key, name in names.items()})

    @property
    def reading(self) -> tuple[Any, ...]:
        """As `run_tower` takes it."""
        return self.row.select_layer, self.row.select_feature, self.row.packed, self.row.channels_first

    def run_whole(self) -> torch.Tensor:
        """Features of the untouched tower for all media; of each alone, where the composite reads those of one size at a
        time."""
        alone = [[one] for one in self.media] if INPUT_SIZES in self.row.inputs.values() else [self.media]
        batches = [self.processor.process_media({self.modality: media})[0] for media in alone]
        return padded_together([run_tower(self.whole, self.arguments(one), *self.reading)[0] for one in batches])

    def arguments(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Of the tower's own forward."""
        values = {self.row.inputs[name]: value for name, value in inputs.items() if name in self.row.inputs}
        values.pop(INPUT_SIZES, None)
        if self.row.marks_padding:
            values[self.row.marks_padding] = ~values[self.row.marks_padding]
        if self.row.side_by_side:
            main = self.row.inputs[self.row.main_input]
            values[main] = side_by_side(values[main])
        return {name: value.flatten(0, 1) for name, value in values.items()} if self.row.per_frame else values


LANGUAGE_MODEL = tiny.language_model()


def config_of(name: str) -> tuple[str, PreTrainedConfig]:
    """Kind and config of a tower by its name in the tables."""
    if name in TEXT_TOWERS:
        return "text", TEXT_TOWERS[name]
    if name in TIMM_FAMILIES:
        return "image", tiny_timm(name)
    if name not in KINDS:
        return own_tower(name).kind, copy.deepcopy(own_tower(name).config)
    config = tiny_encoder(name)
    if KINDS[name] == "series" and getattr(config, "num_input_channels", None):
        config.num_input_channels = 6
    return KINDS[name], config


def sub_processor(name: str, kind: str, config: PreTrainedConfig) -> Any:
    if kind == "text":
        return tiny.tokenizer(None)
    if name in OWN_TOWERS:
        return copy.deepcopy(OWN_TOWERS[name].processor)
    sizes = config.model_args if config.model_type == "timm_wrapper" else {"img_size": 0}
    # timm towers of their usual size bring their own.
    return tiny_processor(config) if "img_size" in sizes else None


def medium(kind: str, seed: int) -> Any:
    if kind == "text":
        return " ".join(tiny.WORDS[4 : 8 + 3 * seed])
    media = tiny.medium(MODALITY_OF_KIND.get(kind, kind), seed)
    if kind == "image" and seed:
        return np.pad(media, ((32, 0), (8, 0), (0, 0)), mode="wrap")
    return media[: 20 + seed] if kind == "series" else media


def register_document() -> None:
    """A modality for the towers of text."""
    register_modality(TextSpec(name="document"), exist_ok=True)


def close_to(given: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((given - expected).abs().max() <= 1e-5 * expected.abs().max())


def check_features(case: Case) -> None:
    """They are those of the whole tower, though what is not read is not there; and they differ between media."""
    with torch.no_grad():
        output = case.encode(case.model, case.inputs)
        expected = case.run_whole()
    features, (first, second) = output.last_hidden_state, output.pooler_output
    features = features.flatten(0, -3) if features.ndim > 2 else features
    assert torch.equal(features, expected) or (case.name in ROUNDED and close_to(features, expected))
    assert torch.isfinite(features).all()
    assert output.last_hidden_state.ndim == (2 if case.row.packed else 4)
    assert case.name in WASHED_OUT or first.shape != second.shape or not torch.equal(first, second)


def check_batch(case: Case) -> None:
    """A medium has the same tokens beside a longer one as by itself."""
    with torch.no_grad():
        together = case.encode(case.model, case.inputs).pooler_output
    for tokens, item in zip(together, case.media, strict=True):
        alone = case.encode(case.model, case.processor.process_media({case.modality: [item]})[0]).pooler_output[0]
        if case.name not in ROUNDED or not close_to(tokens, alone):
            torch.testing.assert_close(tokens, alone, **TIGHT)


def check_training(case: Case) -> None:
    """A frozen tower keeps no graph; a trained one gets a gradient in every weight that it is built with."""
    set_trainable(case.model, "aligners", verbose=False)
    case.model.train()
    assert not case.encode(case.model, case.inputs).last_hidden_state.requires_grad
    set_trainable(case.model, ["aligners", f"{case.modality}_tower"], verbose=False)
    tokens = case.encode(case.model.eval(), case.inputs).pooler_output
    sum(item.square().sum() for item in tokens).backward()
    trained = {name: p for name, p in case.model.named_parameters() if p.requires_grad}
    lacking = [name for name, p in trained.items() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not lacking
    reached = any("_tower" in name and p.grad.abs().max() > 0 for name, p in trained.items())
    assert reached or not list(case.whole.parameters())
    case.model.zero_grad()


def check_checkpoint(case: Case, folder: Any) -> None:
    """All that is saved comes back as it was."""
    case.model.save_pretrained(folder)
    again = AutoModelForCausalLM.from_pretrained(folder)
    before, after = case.model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert not [name for name, value in before.items() if not torch.equal(value, after[name])]
    first, second = (case.encode(model, case.inputs).last_hidden_state for model in (case.model, again))
    if case.name not in ROUNDED or not close_to(first, second):
        torch.testing.assert_close(first, second, **TIGHT)


def check_layer(case: Case) -> None:
    """`select_layer=-2` builds one layer less, and reads what the whole tower calls `hidden_states[-2]`."""
    if case.name in NO_LAYERS:
        with pytest.raises(ValueError):
            case.compose(select_layer=-2)
        return
    cut = load_tower(case.whole, case.medium, -2)
    assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in case.whole.parameters())
    arguments = case.arguments(case.inputs)
    with torch.no_grad():
        features = run_tower(cut, arguments, select_layer=-2)[0]
        expected = case.whole(**arguments, output_hidden_states=True, return_dict=True).hidden_states[-2]
        expected = read_features(case.whole, expected)
    # timm's hidden states are maps of the patches, without class and register tokens.
    torch.testing.assert_close(features[:, features.shape[1] - expected.shape[1] :], expected, **TIGHT)


def check_plan(case: Case) -> None:
    """Without weights, the same tower is composed in the same way."""
    settings = {case.modality: case.settings(copy.deepcopy(case.whole.config))}
    with torch.device("meta"):
        plan, _ = compose(copy.deepcopy(LANGUAGE_MODEL.config), settings, tokenizer=tiny.tokenizer())
    assert plan.config.modalities == case.model.config.modalities
    shapes = [{name: tensor.shape for name, tensor in one.state_dict().items()} for one in (plan, case.model)]
    assert shapes[0] == shapes[1]


CHECKS = ("features", "batch", "training", "checkpoint", "plan", "layer")


def run_checks(name: str, folder: Any) -> tuple[Case, dict[str, Exception]]:
    """The case, and what failed: check -> error."""
    case, failures = Case(name, *config_of(name)), {}
    case.compose()
    for check in CHECKS:
        try:
            globals()[f"check_{check}"](case, *([folder] if check == "checkpoint" else []))
        except Exception as error:  # whatever it is, the other checks go on
            failures[check] = error
    return case, failures


NAMES = [*KINDS, *TIMM_FAMILIES, *TEXT_TOWERS]
