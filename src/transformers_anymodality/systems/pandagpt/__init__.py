"""PandaGPT ([2305.16355](https://arxiv.org/abs/2305.16355)) answers about six modalities through ImageBind, though it was
trained on images alone.

`anymodality convert pandagpt` converts its release, with the LoRA merged or beside it.
"""

from collections.abc import Iterable
from typing import Any

from transformers import LlamaConfig

from ...processing.tokenization import PIECE_END
from ...towers.imagebind import (
    ImageBindAudioConfig,
    ImageBindAudioFeatureExtractor,
    ImageBindDepthConfig,
    ImageBindDepthImageProcessor,
    ImageBindImageProcessor,
    ImageBindImuConfig,
    ImageBindThermalConfig,
    ImageBindThermalImageProcessor,
    ImageBindVideoProcessor,
    ImageBindVisionConfig,
)
from .._base import WORDS, chosen, config_at_hand, register_system, template_beside


MODALITY_NAMES = ("image", "video", "audio", "depth", "thermal", "imu")

# A mark ends each piece that is tokenised by itself, as in the original.
_TEMPLATE = WORDS + template_beside(__file__)


@register_system
def pandagpt(
    language_model: Any = None,
    tokenizer: Any = None,
    *,
    modalities: Iterable[str] = MODALITY_NAMES,
    towers: dict[str, Any] | None = None,
    aligners: dict[str, Any] | None = None,
    faithful: bool = False,
) -> dict[str, Any]:
    """PandaGPT (arXiv 2305.16355, sections 2 and 3): arguments of `compose`.

    ImageBind, which is frozen, gives one vector per item. One linear layer, which is trained, makes it a token. Tokens of
    items that stand side by side are added into one ("arithmetic"): several images, or an image and audio. The published
    models are Vicuna-v0 with LoRA: `lora_config(model, r=32, lora_alpha=32, lora_dropout=0.1, target_modules=["q_proj",
    "k_proj", "v_proj", "o_proj"])`.

    Where paper and code differ or are silent:

    - The paper names six modalities, the code reads four. Depth and IMU are given as ImageBind takes them.
    - Embeddings have ImageBind's lengths (thermal 10, depth and IMU 5). Audio has length 1, as in the code's copy of
      ImageBind. The mean over several clips is not scaled back to that length.
    - A prompt is tokenised piece by piece, as in training, earlier turns included. The demo writes earlier turns into one
      piece.
    - Media of later turns stand in `<Img>` tags of their own. The original has media only at the beginning. A chat without
      media has no tags. A system message stands in front.
    - Generation ends at "##" (or "###", if that is one token), and answers are cut there. The original always drops two
      tokens, even if the answer ended by its length.
    - Generation samples with top_p 0.01, which is nearly greedy.

    Args:
        language_model, tokenizer: as for `compose`. Default: Vicuna-7B-v0's config.
        towers: modality -> tower, instead of `imagebind_huge`'s. Images and videos share one.
        aligners: fields of the linear aligner's config.
        faithful: centre audio of less than 6 s as the original does: twice where its clips overlap.
    """
    names, towers = chosen(modalities, MODALITY_NAMES, "PandaGPT"), dict(towers or {})
    own = _towers(towers, faithful)
    aligner = {"type": "linear", "sum_neighbours": True, "num_tokens": 1, **(aligners or {})}
    settings: dict[str, Any] = {}
    for name in names:
        row = {"select_feature": "pooled", "per_frame": False, **own[name]}
        if name == "video" and "image" in names and "video" not in towers:
            row["tower"] = "image"
        settings[name] = {**row, "aligner": aligner if name == names[0] else names[0]}
    return {
        "language_model": LlamaConfig(vocab_size=32001, rms_norm_eps=1e-6)
        if language_model is None
        else language_model,
        "tokenizer": tokenizer,
        "modalities": settings,
        "chat_template": _TEMPLATE.replace("PIECE_END", PIECE_END),
        "text": {"piecewise": True, "stop": ["##", "###"]},
        "generation": {"do_sample": True, "top_p": 0.01, "temperature": 1.0, "max_new_tokens": 256},
    }


def _towers(towers: dict[str, Any], faithful: bool) -> dict[str, dict[str, Any]]:
    vision = towers.get("image") or ImageBindVisionConfig()
    audio = towers.get("audio") or ImageBindAudioConfig(logit_scale=None)
    depth = towers.get("depth") or ImageBindDepthConfig()
    thermal = towers.get("thermal") or ImageBindThermalConfig()
    imu = towers.get("imu") or ImageBindImuConfig()
    size = _field(vision, "image_size", 224)
    spectrogram = {name: _field(audio, name, default) for name, default in _SPECTROGRAM.items()}
    return {
        "image": {"tower": vision, "processor": ImageBindImageProcessor(size)},
        "video": {"tower": towers.get("video") or vision, "processor": ImageBindVideoProcessor(size)},
        "audio": {"tower": audio, "processor": ImageBindAudioFeatureExtractor(faithful=faithful, **spectrogram)},
        "depth": {"tower": depth, "processor": ImageBindDepthImageProcessor(_field(depth, "image_size", 224))},
        "thermal": {"tower": thermal, "processor": ImageBindThermalImageProcessor(_field(thermal, "image_size", 224))},
        "imu": {"tower": imu, "channels_first": True},
    }


_SPECTROGRAM = {"num_mel_bins": 128, "target_length": 204}


def _field(tower: Any, name: str, default: int) -> int:
    """A field of a tower's config. A tower that is not loaded yet has the published size."""
    return getattr(config_at_hand(tower), name, default)
