"""For the tests of composing: parts in folders, as if on the Hub, and what a refusal must leave unchanged."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, CLIPVisionModel, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from modeling_tests import tiny
from transformers_anymodality import compose, register_modality
from transformers_anymodality.modalities import MODALITIES


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
