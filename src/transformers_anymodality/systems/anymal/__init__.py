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

# Puts the media of a message behind its words, then leaves the rest to the language model's own template.
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
    """AnyMAL (arXiv 2309.16058, section 3, hyper-parameters in its appendix): arguments of `compose`.

    Frozen towers, and of each medium a fixed number of tokens: images 64 and videos 32 by Perceiver resamplers of 6 and
    4 layers, audio and IMU 32 by one linear layer. First the aligners are trained to caption (`set_trainable(model,
    "aligners")`; images 100k steps of 2048 at 2e-4, audio 1k of 128 at 1e-4, videos 20k of 1024 at 1e-4, IMU 2k of 256
    at 1e-4; the language model may be quantised meanwhile), then they and a LoRA on all linear layers to follow
    instructions (`lora_config(model, r=64, lora_alpha=16)`, 3k steps of 128 at 1e-5).

    Neither code nor weights were released. Where the paper is silent or leaves a choice:

    - Images: CLIP ViT-L/14 at 336 pixels, of the three image towers that are compared; all its last layer's features,
      the class token's among them.
    - The resampler is Flamingo's in its published implementations (8 heads of 64, feed-forward layers four times as
      wide) at the tower's width, with a linear layer to the language model's behind.
    - Audio: CLAP's HTSAT, 10 s at 48 kHz, its pooled feature in front of the projection. One linear layer makes all 32
      tokens of it, as wide as they are together; IMU likewise.
    - Videos: InternVideo's masked-video half, VideoMAE ViT-L, with 8 frames, whose tower tells time apart; InternVideo
      itself is not in Transformers. For the paper's "image model, 4 frames", give images instead.
    - IMU: IMU2CLIP's encoder, 5 s at 200 Hz.
    - Prompts: `<instruction> <media>` in the language model's own chat format (LLaMA-2's if its tokenizer has none):
      the words of a message come first, then its media in their order, without delimiters. For captions alone, as in
      the first stage, give messages of media without words.
    - What is learned is what the assistant says.

    Args:
        language_model, tokenizer: as `compose`'s; LLaMA-2-13B's config if left out.
        towers: modality -> tower, or settings as `compose` takes them.
        aligners: fields of `PerceiverResamplerAlignerConfig` for images and videos, and modality -> fields for one.
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
    """The language model's own template (or several, by name), media of a message behind its words."""
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
        # Audio that is too long for a window is refused before any truncation.
        return ClapFeatureExtractor(truncation="fusion" if config.enable_fusion else "rand_trunc")
    kinds = {CLIPVisionConfig: CLIPImageProcessor, VideoMAEConfig: VideoMAEVideoProcessor}
    return kinds[type(config)](**cropped(config.image_size)) if type(config) in kinds else None
