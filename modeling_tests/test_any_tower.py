"""Every encoder of images, video, sound and series that `AutoModel` knows, as a tower beside a tiny language model.

What cannot be read is listed with its reason in `REFUSED`, and `compose` must say so. `docs/architectures.md` is written
from these tables.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, PreTrainedConfig, PreTrainedModel, T5Config

from modeling_tests import tiny
from modeling_tests.test_identities import TIGHT
from modeling_tests.tiny_processors import tiny_processor
from modeling_tests.tiny_tower_types import KINDS, PACKED
from modeling_tests.tiny_towers import TIMM_FAMILIES, tiny_encoder, tiny_timm
from transformers_anymodality import TextSpec, compose, register_modality, set_trainable
from transformers_anymodality.modalities import MODALITIES
from transformers_anymodality.towers import load_tower, run_tower


MODALITY_OF_KIND = {"image": "image", "video": "video", "audio": "audio", "series": "imu", "text": "document"}

REFUSED: dict[str, str] = {
    **dict.fromkeys(PACKED, "takes the patches of all images as one row, with the grids that they come from"),
}
KNOWN: dict[str, dict[str, str]] = {}

TEXT_TOWERS = {
    "bert": BertConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=64),
    "t5": T5Config(d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=64),
}


@dataclass
class Case:
    """A tower in a composite, and the same tower untouched."""

    name: str
    kind: str
    config: PreTrainedConfig

    def __post_init__(self):
        self.modality = MODALITY_OF_KIND[self.kind]
        self.medium = MODALITIES[self.modality].medium
        torch.manual_seed(0)
        self.whole = load_tower(self.config, self.medium, None).eval()
        tiny.spread(self.whole)

    def compose(self) -> None:
        settings: dict[str, Any] = {"tower": copy.deepcopy(self.whole), "aligner": "linear"}
        if (processor := sub_processor(self.kind, self.config)) is not None:
            settings["processor"] = processor
        language = copy.deepcopy(LANGUAGE_MODEL)
        self.model, self.processor = compose(language, {self.modality: settings}, tokenizer=tiny.tokenizer())
        self.media = [medium(self.kind, seed) for seed in (0, 1)]
        self.inputs = self.processor.process_media({self.modality: self.media})[0]

    @property
    def row(self) -> dict[str, Any]:
        return self.model.config.modalities[self.modality]

    def encode(self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> Any:
        names = {name.removeprefix(f"{self.modality}_") if "feature_lengths" in name else name: name for name in inputs}
        return model.get_modality_features(self.modality, **{key: inputs[name] for key, name in names.items()})

    def arguments(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Of the tower's own forward."""
        values = {self.row["inputs"][name]: value for name, value in inputs.items() if name in self.row["inputs"]}
        return {name: value.flatten(0, 1) for name, value in values.items()} if self.row["per_frame"] else values


LANGUAGE_MODEL = tiny.language_model()


def config_of(name: str) -> tuple[str, PreTrainedConfig]:
    """Kind and config of a tower by its name in the tables."""
    if name in TEXT_TOWERS:
        return "text", TEXT_TOWERS[name]
    if name in TIMM_FAMILIES:
        return "image", tiny_timm(name)
    config = tiny_encoder(name)
    if KINDS[name] == "series" and getattr(config, "num_input_channels", None):
        config.num_input_channels = 6
    return KINDS[name], config


def sub_processor(kind: str, config: PreTrainedConfig) -> Any:
    if kind == "text":
        return tiny.tokenizer(None)
    # timm towers bring their own.
    return None if config.model_type == "timm_wrapper" and config.architecture in TIMM_FAMILIES else tiny_processor(config)


def medium(kind: str, seed: int) -> Any:
    if kind == "text":
        return " ".join(tiny.WORDS[4 : 8 + 3 * seed])
    return tiny.medium(MODALITY_OF_KIND[kind], seed)


@pytest.fixture(scope="module", autouse=True)
def _document():
    register_modality(TextSpec(name="document"))
    yield
    del MODALITIES._entries["document"]


def check_features(case: Case) -> None:
    """They are those of the whole tower, though what is not read is not there; and they differ between media."""
    features = case.encode(case.model, case.inputs).last_hidden_state
    with torch.no_grad():
        expected = run_tower(case.whole, case.arguments(case.inputs))[0]
    assert torch.equal(features.flatten(0, 1), expected) and torch.isfinite(features).all()
    assert features.ndim == 4 and len(features) == 2 and (features[0] - features[1]).abs().max() > 1e-4


def check_batch(case: Case) -> None:
    """A medium has the same tokens beside a longer one as by itself."""
    together = case.encode(case.model, case.inputs).pooler_output
    for tokens, item in zip(together, case.media, strict=True):
        alone = case.encode(case.model, case.processor.process_media({case.modality: [item]})[0]).pooler_output[0]
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
    assert not lacking and any("_tower" in name and p.grad.abs().max() > 0 for name, p in trained.items())
    case.model.zero_grad()


def check_checkpoint(case: Case, folder: Any) -> None:
    """All that is saved comes back as it was."""
    case.model.save_pretrained(folder)
    again = AutoModelForCausalLM.from_pretrained(folder)
    for kind in ("state_dict", "named_parameters", "named_buffers"):
        before, after = dict(getattr(case.model, kind)()), dict(getattr(again, kind)())
        assert before.keys() == after.keys()
        assert not [name for name, value in before.items() if not torch.equal(value, after[name])]
    first, second = (case.encode(model, case.inputs).last_hidden_state for model in (case.model, again))
    torch.testing.assert_close(first, second, **TIGHT)


def check_layer(case: Case) -> None:
    """`select_layer=-2` builds one layer less, and reads what the whole tower calls `hidden_states[-2]`."""
    cut = load_tower(case.whole, case.medium, -2)
    assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in case.whole.parameters())
    arguments = case.arguments(case.inputs)
    with torch.no_grad():
        features = run_tower(cut, arguments, select_layer=-2)[0]
        expected = case.whole(**arguments, output_hidden_states=True, return_dict=True).hidden_states[-2]
    torch.testing.assert_close(features, expected.flatten(1, -2), **TIGHT)


CHECKS = ("features", "batch", "training", "checkpoint", "layer")


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


@pytest.mark.parametrize("name", [name for name in NAMES if name not in REFUSED])
def test_any_tower(name, tmp_path):
    if name == "dinat":
        pytest.importorskip("natten")
    _, failures = run_checks(name, tmp_path)
    known = KNOWN.get(name, {})
    for check in failures.keys() - known.keys():
        raise failures[check]
    assert not known.keys() - failures.keys(), "passes now: take it out of KNOWN"
    if known:
        pytest.xfail("; ".join(f"{check}: {reason}" for check, reason in known.items()))


@pytest.mark.parametrize("name", REFUSED)
def test_towers_that_cannot_be_read_are_refused(name):
    with pytest.raises(ValueError, match="The tower of '(image|audio|imu)'"):
        Case(name, *config_of(name)).compose()
