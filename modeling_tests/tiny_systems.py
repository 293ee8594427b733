"""The published systems at tiny sizes: arguments of their presets, and what can be said to them."""

from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import Blip2VisionConfig, ClapAudioConfig, PreTrainedTokenizerFast, VideoMAEConfig

from modeling_tests import tiny
from modeling_tests.checks import tiny_setting
from transformers_anymodality import AnyModalityForCausalLM, AnyModalityProcessor, compose
from transformers_anymodality.systems import SYSTEMS
from transformers_anymodality.systems.mplug_owl.tower import MplugOwlVisionConfig
from transformers_anymodality.towers.imagebind import (
    ImageBindAudioConfig,
    ImageBindDepthConfig,
    ImageBindImuConfig,
    ImageBindThermalConfig,
    ImageBindVisionConfig,
)
from transformers_anymodality.towers.imu2clip import Imu2ClipConfig


TINY: dict[str, Callable[..., dict[str, Any]]] = {}


def register_tiny(function: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Function decorator: the preset's keyword arguments for a tiny language model and its tokenizer."""
    TINY[function.__name__] = function
    return function


def byte_tokenizer(special: tuple[str, ...] = (), size: int = 0) -> PreTrainedTokenizerFast:
    """Tokenises any text, into bytes. It has `size` words at least, though it uses none of the others."""
    words = ["<pad>", "<s>", "</s>", *special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words += [f"unused {i}" for i in range(size - len(words))]
    backend = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokens = dict(pad_token="<pad>", bos_token="<s>", eos_token="</s>", extra_special_tokens=list(special))
    return PreTrainedTokenizerFast(tokenizer_object=backend, add_bos_token=True, **tokens)


def system(name: str, model_type: str = "llama", **settings) -> tuple[AnyModalityForCausalLM, AnyModalityProcessor]:
    """A tiny one, seeded, none of its weights zero, whose answers have six tokens."""
    tokenizer = byte_tokenizer()
    language = tiny.language_model(model_type, vocab_size=len(tokenizer))
    arguments = tiny_setting(TINY, name, "tiny_systems.py, by @register_tiny")
    torch.manual_seed(0)
    model, processor = compose(**SYSTEMS[name](**{**arguments(language, tokenizer), **settings}))
    tiny.spread(model)
    return model.eval(), processor


_SMALL = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, projection_dim=12)


@register_tiny
def pandagpt(language_model: Any, tokenizer: Any) -> dict[str, Any]:
    towers = {
        "image": ImageBindVisionConfig(**_SMALL, patch_size=56),
        "audio": ImageBindAudioConfig(**_SMALL, patch_size=64, patch_stride=64, logit_scale=None),
        "depth": ImageBindDepthConfig(**_SMALL, patch_size=56),
        "thermal": ImageBindThermalConfig(**_SMALL, patch_size=56),
        "imu": ImageBindImuConfig(**_SMALL, patch_size=200),
    }
    return {"language_model": language_model, "tokenizer": tokenizer, "towers": towers}


@register_tiny
def mplug_owl(language_model: Any, tokenizer: Any) -> dict[str, Any]:
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    return {
        "language_model": language_model,
        "tokenizer": tokenizer,
        "release": "video",
        "towers": {"image": MplugOwlVisionConfig(**sizes, image_size=28, patch_size=14, temporal=True)},
        "aligners": {"num_tokens": 4, "depth": 2, "num_heads": 2, "intermediate_size": 12},
    }


@register_tiny
def macaw_llm(language_model: Any, tokenizer: Any) -> dict[str, Any]:
    return {
        "language_model": language_model,
        "tokenizer": tokenizer,
        "towers": {"image": tiny.vision_config(), "video": tiny.vision_config(), "audio": tiny.whisper_config()},
        "aligners": {
            "align_heads": 4,
            "attention_heads": 2,
            "image": {"projection_size": 8, "conv_kernel": 4, "conv_stride": 3},
            "audio": {"conv_kernel": 10, "conv_stride": 8},
            "video": {"projection_size": 8},
        },
    }


@register_tiny
def anymal(language_model: Any, tokenizer: Any) -> dict[str, Any]:
    return {
        "language_model": language_model,
        "tokenizer": tokenizer,
        "towers": {
            "image": tiny.vision_config(),
            "audio": ClapAudioConfig(
                patch_embeds_hidden_size=8, depths=[1, 1], num_attention_heads=[1, 1], hidden_size=16
            ),
            "video": VideoMAEConfig(
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=24,
                image_size=32,
                patch_size=16,
                num_frames=4,
            ),
            "imu": Imu2ClipConfig(hidden_size=16),
        },
        "aligners": {
            "num_heads": 2,
            "head_dim": 8,
            "image": {"num_tokens": 4, "depth": 2},
            "video": {"num_tokens": 3, "depth": 1},
            "audio": {"num_tokens": 3},
            "imu": {"num_tokens": 2},
        },
    }


@register_tiny
def x_llm(language_model: Any, tokenizer: Any) -> dict[str, Any]:
    vision = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    return {
        "language_model": language_model,
        "tokenizer": tokenizer,
        "frames": 3,
        "towers": {"image": Blip2VisionConfig(**vision, image_size=28, patch_size=14, initializer_range=0.1)},
        "aligners": {
            "image": dict(num_tokens=3, depth=2, num_heads=2, qformer_hidden_size=16, intermediate_size=24),
            "speech": dict(depth=1, num_heads=2, bert_hidden_size=16, intermediate_size=24),
        },
    }
