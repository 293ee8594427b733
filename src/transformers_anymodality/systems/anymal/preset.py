"""AnyMAL: images, sound, videos and motion behind an instruction, by Perceiver resamplers and linear layers."""

from __future__ import annotations

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

from ...towers.imu2clip import Imu2ClipConfig
from .._base import load_tokenizer, register_system


SENSES = ("image", "audio", "video", "imu")

# Puts the media of a message behind its words, then leaves the rest to the language model's own template.
_INSTRUCTION_FIRST = """\
{%- set flat = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- set said = namespace(text='', media='') -%}
{%- for part in ([message.content] if message.content is string else message.content or []) -%}
{%- if part is string -%}{%- set said.text = said.text + part -%}
{%- elif part.type in media_tokens -%}{%- set said.media = said.media + media_tokens[part.type] -%}
{%- elif part.text is defined -%}{%- set said.text = said.text + part.text -%}
{%- else -%}{{- raise_exception('This model has no modality ' + part.type) -}}
{%- endif -%}
{%- endfor -%}
{%- set content = said.text + (' ' if said.text and said.media else '') + said.media -%}
{%- set flat.messages = flat.messages + [dict(message, content=content)] -%}
{%- endfor -%}
{%- set messages = flat.messages %}
"""
_LLAMA_2 = """\
{%- set chat = namespace(system='') -%}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{%- set chat.system = '<<SYS>>\\n' + message.content + '\\n<</SYS>>\\n\\n' -%}
{%- elif message.role == 'assistant' -%}
{%- generation -%}{{- ' ' + message.content + ' ' -}}{{- eos_token -}}{%- endgeneration -%}
{%- else -%}
{{- bos_token -}}{{- '[INST] ' + chat.system + message.content + ' [/INST]' -}}
{%- set chat.system = '' -%}
{%- endif -%}
{%- endfor -%}"""


@register_system
def anymal(
    language_model: Any = None,
    tokenizer: Any = None,
    *,
    senses: Iterable[str] = SENSES,
    towers: dict[str, Any] | None = None,
    aligners: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """AnyMAL (arXiv 2309.16058, section 3, hyper-parameters in its appendix): arguments of `compose`.

    Frozen towers, and of each medium a fixed number of tokens: images 64 and videos 32 by Perceiver resamplers of 6 and
    4 layers, sound and motion 32 by one linear layer. First the aligners are trained to caption (`set_trainable(model,
    "aligners")`; images 100k steps of 2048 at 2e-4, sound 1k of 128 at 1e-4, videos 20k of 1024 at 1e-4, motion 2k of
    256 at 1e-4; the language model may be quantised meanwhile), then they and a LoRA on all linear layers to follow
    instructions (`lora_config(model, r=64, lora_alpha=16)`, 3k steps of 128 at 1e-5).

    Neither code nor weights were released. Where the paper is silent or leaves a choice:

    - Images: CLIP ViT-L/14 at 336 pixels, of the three image towers that are compared; all its last layer's features,
      the class token's among them.
    - The resampler is Flamingo's in its published implementations (8 heads of 64, feed-forward layers four times as
      wide) at the tower's width, with a linear layer to the language model's behind.
    - Sound: CLAP's HTSAT, 10 s at 48 kHz, its pooled feature in front of the projection. One linear layer makes all 32
      tokens of it, as wide as they are together; motion likewise.
    - Videos: InternVideo's masked-video half, VideoMAE ViT-L, with 8 frames, whose tower tells time apart; InternVideo
      itself is no class of Transformers. For the paper's "image model, 4 frames", give images instead.
    - Motion: IMU2CLIP's encoder, 5 s at 200 Hz.
    - Prompts: `<instruction> <media>` in the language model's own chat format (LLaMA-2's if its tokenizer has none):
      the words of a message come first, then its media in their order, without delimiters. For captions alone, as in
      the first stage, give messages of media without words.
    - What is learned is what the assistant says.

    Args:
        language_model: as `compose`'s; LLaMA-2-13B's config if left out.
        tokenizer: as `compose`'s.
        senses: which there are, of image, audio, video, imu.
        towers: sense -> tower, or settings as `compose` takes them.
        aligners: fields of `PerceiverResamplerAlignerConfig` for images and videos, and sense -> fields for one.
    """
    senses, towers = set(senses), towers or {}
    if unknown := sorted(senses - set(SENSES)):
        raise ValueError(f"AnyMAL has no {', '.join(unknown)}; its senses are {', '.join(SENSES)}.")
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
        "modalities": {name: _modality(name, towers.get(name), aligners or {}) for name in SENSES if name in senses},
        "chat_template": chat_template(tokenizer.chat_template),
    }


def chat_template(own: str | dict[str, str] | None) -> str | dict[str, str]:
    """The language model's own template (or several, by name), media of a message behind its words."""
    if isinstance(own, dict):
        return {name: chat_template(template) for name, template in own.items()}
    return _INSTRUCTION_FIRST + (own or _LLAMA_2)


_TOWERS = {
    "image": partial(
        CLIPVisionConfig,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    ),
    "audio": ClapAudioConfig,
    "video": partial(
        VideoMAEConfig,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_frames=8,
    ),
    "imu": Imu2ClipConfig,
}
_ALIGNERS = {
    "image": {"type": "perceiver_resampler", "num_tokens": 64, "depth": 6},
    "audio": {"type": "linear", "num_tokens": 32},
    "video": {"type": "perceiver_resampler", "num_tokens": 32, "depth": 4},
    "imu": {"type": "linear", "num_tokens": 32},
}


def _modality(name: str, given: Any, aligners: dict[str, Any]) -> dict[str, Any]:
    """Settings of a sense for `compose`."""
    row = dict(given) if isinstance(given, dict) else {} if given is None else {"tower": given}
    row = {"tower": _TOWERS[name](), "select_feature": "pooled" if name in ("audio", "imu") else "all", **row}
    if "processor" not in row and (processor := _processor(row["tower"])) is not None:
        row["processor"] = processor
    resampler = {} if name in ("audio", "imu") else {k: v for k, v in aligners.items() if k not in SENSES}
    return {**row, "aligner": {**_ALIGNERS[name], **resampler, **aligners.get(name, {})}}


def _processor(tower: Any) -> Any:
    """The sub-processor of a tower whose config is at hand; others are found with their tower."""
    config = tower if isinstance(tower, PreTrainedConfig) else getattr(tower, "config", None)
    if isinstance(config, ClapAudioConfig):
        # Sound that is too long for a window is refused before any truncation.
        return ClapFeatureExtractor(truncation="fusion" if config.enable_fusion else "rand_trunc")
    kinds = {CLIPVisionConfig: CLIPImageProcessor, VideoMAEConfig: VideoMAEVideoProcessor}
    if type(config) not in kinds:
        return None
    side = config.image_size
    return kinds[type(config)](size={"shortest_edge": side}, crop_size={"height": side, "width": side})
