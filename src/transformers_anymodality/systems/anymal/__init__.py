"""AnyMAL ([2309.16058](https://arxiv.org/abs/2309.16058)) answers about images, audio, videos and IMU signals."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from transformers import (
    ClapAudioConfig,
    ClapFeatureExtractor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    PreTrainedConfig,
    VideoMAEConfig,
    VideoMAEVideoProcessor,
)

from ...compose.compose import load_tokenizer
from ...towers.imu2clip import Imu2ClipConfig
from .._base import chosen, config_at_hand, cropped, register_system, template_beside, tower_settings


MODALITY_NAMES = ("image", "audio", "video", "imu")

# Puts the media of a message behind its text. The language model's own template does the rest.
_INSTRUCTION_FIRST = template_beside(__file__, "instruction_first")
_LLAMA_2 = template_beside(__file__, "llama_2")


@register_system
def anymal(
    language_model: Any = None,
    tokenizer: Any = None,
    *,
    modalities: Iterable[str] = MODALITY_NAMES,
    towers: dict[str, Any] | None = None,
    aligners: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """AnyMAL (arXiv 2309.16058, section 3 and appendix): arguments of `compose`.

    Towers are frozen. Each item becomes a fixed number of tokens: an image 64 and a video 32 (Perceiver resamplers of 6
    and 4 layers), audio and IMU 32 each (one linear layer). Training has two stages:

    1. The aligners learn to caption: `set_trainable(model, "aligners")`. The language model may be quantised. Images take
       100k steps of 2048 at 2e-4, audio 1k of 128 at 1e-4, videos 20k of 1024 at 1e-4, IMU 2k of 256 at 1e-4.
    2. The aligners and a LoRA on all linear layers learn to follow instructions:
       `lora_config(model, r=64, lora_alpha=16)`, 3k steps of 128 at 1e-5.

    Neither code nor weights were released. Where the paper is silent or leaves a choice:

    - Images: CLIP ViT-L/14 at 336 pixels, one of the three image towers that the paper compares. The aligner reads all
      features of its last layer, the class token included.
    - The resampler is Flamingo's as published: 8 heads of width 64, feed-forward layers four times as wide. It works at the
      tower's width. A linear layer then maps to the language model's width.
    - Audio: CLAP's HTSAT, 10 s at 48 kHz. The aligner reads its pooled feature, before CLAP's projection. One linear layer
      maps this feature to all 32 tokens at once. IMU works in the same way.
    - Videos: VideoMAE ViT-L with 8 frames, the masked-video half of InternVideo. Transformers lacks InternVideo itself. For
      the paper's "image model, 4 frames", give images instead.
    - IMU: IMU2CLIP's encoder, 5 s at 200 Hz.
    - Prompts: `<instruction> <media>` in the language model's own chat format, or LLaMA-2's if its tokenizer has none. The
      text of a message comes first, then its media in order, without delimiters. For captions alone, as in the first
      stage, give messages with media and without text.
    - Only what the assistant says is learned.

    Args:
        language_model, tokenizer: as for `compose`. Default: LLaMA-2-13B's config.
        towers: modality -> tower, or settings as for `compose`.
        aligners: fields of `PerceiverResamplerAlignerConfig` for images and videos, and modality -> fields for one of them.
    """
    names = chosen(modalities, MODALITY_NAMES, "AnyMAL")
    if language_model is None:
        language_model = LlamaConfig(
            hidden_size=5120,
            intermediate_size=13824,
            num_hidden_layers=40,
            num_attention_heads=40,
            max_position_embeddings=4096,
        )
    tokenizer = load_tokenizer(tokenizer, language_model)
    return {
        "language_model": language_model,
        "tokenizer": tokenizer,
        "modalities": {name: _modality(name, (towers or {}).get(name), aligners or {}) for name in names},
        "chat_template": chat_template(tokenizer.chat_template),
    }


def chat_template(own: str | dict[str, str] | None) -> str | dict[str, str]:
    """The language model's own template (or several, by name), with the media of a message behind its text."""
    if isinstance(own, dict):
        return {name: chat_template(template) for name, template in own.items()}
    return _INSTRUCTION_FIRST + (own or _LLAMA_2)


_LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
_TOWERS = {
    "image": partial(CLIPVisionConfig, **_LARGE, image_size=336, patch_size=14),
    "audio": ClapAudioConfig,
    "video": partial(VideoMAEConfig, **_LARGE, num_frames=8),
    "imu": Imu2ClipConfig,
}
_ALIGNERS = {
    "image": {"type": "perceiver_resampler", "num_tokens": 64, "depth": 6},
    "audio": {"type": "linear", "num_tokens": 32},
    "video": {"type": "perceiver_resampler", "num_tokens": 32, "depth": 4},
    "imu": {"type": "linear", "num_tokens": 32},
}


def _modality(name: str, given: Any, aligners: dict[str, Any]) -> dict[str, Any]:
    resampled = _ALIGNERS[name]["type"] == "perceiver_resampler"
    row = {"select_feature": "all" if resampled else "pooled", **tower_settings(given, _TOWERS[name])}
    if "processor" not in row and (processor := _processor(config_at_hand(row["tower"]))) is not None:
        row["processor"] = processor
    fields = {key: value for key, value in aligners.items() if resampled and key not in MODALITY_NAMES}
    return {**row, "aligner": {**_ALIGNERS[name], **fields, **aligners.get(name, {})}}


def _processor(config: PreTrainedConfig | None) -> Any:
    """The sub-processor of a tower whose config is at hand; others are found with their tower."""
    if isinstance(config, ClapAudioConfig):
        # It never truncates: audio that is longer than the window was refused before.
        return ClapFeatureExtractor(truncation="fusion" if config.enable_fusion else "rand_trunc")
    kinds = {CLIPVisionConfig: CLIPImageProcessor, VideoMAEConfig: VideoMAEVideoProcessor}
    return kinds[type(config)](**cropped(config.image_size)) if type(config) in kinds else None
