"""PandaGPT ([2305.16355](https://arxiv.org/abs/2305.16355)) answers about six modalities through ImageBind, though it was
trained on images alone. Its release is converted by `anymodality convert pandagpt`, with the LoRA merged or beside."""

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

# What is tokenised by itself ends with a mark, as the original tokenises its pieces.
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

    Every medium is one vector of ImageBind's, frozen, and one linear layer, trained, makes it a token. Media that stand
    side by side are added into one token ("arithmetic"): several images, or an image and audio. The published models
    are Vicuna-v0 with LoRA: `lora_config(model, r=32, lora_alpha=32, lora_dropout=0.1, target_modules=["q_proj",
    "k_proj", "v_proj", "o_proj"])`.

    Where paper and code differ or are silent:

    - The paper names six modalities, the code reads four. Depth and IMU come in as ImageBind takes them.
    - Embeddings have ImageBind's lengths (thermal 10, depth and IMU 5), but audio has length 1, as in the code's copy of
      ImageBind. Those of several clips are averaged and not made longer again.
    - A prompt's pieces are tokenised by themselves, also an earlier turn's in a chat, which is how the model was trained;
      the demo writes earlier turns into one piece.
    - Media of later turns stand in `<Img>` tags of their own; the original only knows some at the beginning. A chat
      without media has no tags. A system message stands in front.
    - Generation ends at "##" (or "###", where that is one token), and answers are cut there; the original always drops
      two tokens, also when the answer ended by its length.
    - top_p is 0.01 with sampling, which is as good as greedy.

    Args:
        language_model, tokenizer: as `compose`'s; Vicuna-7B-v0's config if left out.
        towers: modality -> tower instead of `imagebind_huge`'s; images and videos have one.
        aligners: fields of the linear aligner's config.
        faithful: audio of less than 6 s is centred as the original does: each clip again, where they overlap.
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
    """Of a tower's config; a tower that is yet to be loaded has the published size."""
    return getattr(config_at_hand(tower), name, default)
