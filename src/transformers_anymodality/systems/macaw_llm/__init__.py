"""Macaw-LLM ([2306.09093](https://arxiv.org/abs/2306.09093)) puts images, audio and videos in front of an Alpaca prompt.

CLIP reads images and frames, Whisper reads audio. A convolution shortens their features. Each feature then attends over
LLaMA's whole table of token embeddings (`MacawAligner`), so that it becomes a blend of words. `anymodality convert
macaw_llm` converts its releases. The file itself shows which graph it has."""

from functools import partial
from itertools import count
from typing import Any

from transformers import (
    AutoVideoProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    PreTrainedTokenizerBase,
    VideoLlavaVideoProcessor,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from ...compose.compose import load_tokenizer
from .._base import (
    WORDS,
    config_at_hand,
    cropped,
    register_processor,
    register_system,
    template_beside,
    tower_settings,
)


MODALITY_NAMES = ("image", "audio", "video")  # in the order of a prompt
DELIMITERS = tuple(token for name in MODALITY_NAMES for token in (f"<{name}>", f"</{name}>"))
# The released checkpoint is of June 2023; the code that is published now is of July.
GRAPHS = ("release", "current")


@register_system
def macaw_llm(
    language_model: Any = None,
    tokenizer: Any = None,
    *,
    graph: str = "release",
    towers: dict[str, Any] | None = None,
    aligners: dict[str, Any] | None = None,
    faithful: bool = False,
) -> dict[str, Any]:
    """Macaw-LLM (arXiv 2306.09093): arguments of `compose`.

    Prompts are Alpaca's. A user's message is the instruction; `{"role": "user", "content": ..., "input": ...}` also has an
    input. Media stand in front of it: images, then audio, then videos, whatever their order in the messages. Each stands
    between two delimiters such as `<image>` and `</image>`, which are added to a tokenizer that lacks them. Placeholders
    therefore have other names: `<image_patch>` and so on.

    Where paper, code and release differ or are silent:

    - There are two graphs, and Figure 1 has another order of modalities than either.
        - "release" is the code of June 2023, which made the released weights. A video is 6 frames with one pooled feature
          each, which attend to each other. All three modalities share one attention over the token table, with 8 heads.
        - "current" is the code of July 2023. All patches of a video's frames attend to each other, and are shortened to 39
          tokens. Each modality has its own attention, with 16 heads.
    - A modality that a prompt lacks is left out. The original encodes zeros for it, with delimiters. For the same, give
      zeros as model inputs.
    - The place of an item in the messages is not kept, in chats of several turns neither. The original has one turn only;
      here further turns are further instructions and responses. A system message replaces the first sentences.
    - The response is learned with its line ends and an end token, without which a model does not learn to stop. The
      original leaves the end token to the tokenizer.
    - Towers from elsewhere have no visual projection. The aligner's projection then starts at random.

    Args:
        language_model, tokenizer: as for `compose`. Default: LLaMA-7B's config.
        graph: "release" or "current".
        towers: modality -> tower, or settings as for `compose`. Default: CLIP ViT-B/16 (one for images, another for videos)
            and Whisper base.
        aligners: fields of `MacawAlignerConfig` for all modalities, and modality -> fields for one.
        faithful: learn the colon of `### Response:` too, and no end token, as the original does with LLaMA's tokenizer.
    """
    if graph not in GRAPHS:
        raise ValueError(f"graph is {graph!r}; Macaw-LLM has {' and '.join(GRAPHS)}.")
    tokenizer = with_delimiters(tokenizer, language_model)
    return {
        "language_model": LlamaConfig(rms_norm_eps=1e-6) if language_model is None else language_model,
        "tokenizer": tokenizer,
        "modalities": modalities(graph, towers or {}, {"attended_rows": len(tokenizer), **(aligners or {})}),
        **prompts(faithful),
    }


def prompts(faithful: bool = False) -> dict[str, Any]:
    """Chat template and text settings, as arguments of `compose`."""
    return {
        "chat_template": chat_template(faithful),
        "text": {"piecewise": True},
        "generation": {"do_sample": False, "max_new_tokens": 128},
    }


def with_delimiters(tokenizer: Any, language_model: Any) -> PreTrainedTokenizerBase:
    """A tokenizer for this system alone, with the six delimiters."""
    tokenizer = load_tokenizer(tokenizer, language_model)
    if missing := [token for token in DELIMITERS if token not in tokenizer.get_vocab()]:
        tokenizer.add_special_tokens({"extra_special_tokens": missing}, replace_extra_special_tokens=False)
    return tokenizer


def chat_template(faithful: bool = False) -> str:
    colon, begin = "{{- ':' -}}", "{%- generation -%}"
    template = WORDS + template_beside(__file__)
    template = template.replace("PROMPT_END", begin + colon if faithful else colon + begin)
    return template.replace("ANSWER_END", "" if faithful else "{{- eos_token -}}")


def modalities(graph: str, towers: dict[str, Any], aligners: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings of the three modalities for `compose`; the arguments are those of `macaw_llm`."""
    common = {key: value for key, value in aligners.items() if key not in MODALITY_NAMES}
    settings = {}
    for name in MODALITY_NAMES:
        given = tower_settings(towers.get(name), _TOWERS[name])
        row = {"token": f"<{name}_patch>", **_SETTINGS[graph].get(name, {}), **given}
        if "processor" not in row and (processor := _processor(name, row)) is not None:
            row["processor"] = processor
        fields = {**_ALIGNERS[graph][name], **common, **aligners.get(name, {})}
        settings[name] = {**row, "aligner": {"type": "macaw", **fields}}
    return settings


_TOWERS = {
    "image": partial(CLIPVisionConfig, patch_size=16),
    "audio": partial(
        WhisperConfig,
        d_model=512,
        encoder_layers=6,
        decoder_layers=6,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=2048,
        decoder_ffn_dim=2048,
    ),
    "video": partial(CLIPVisionConfig, patch_size=16),
}
_FRAMES = {"per_frame": True, "num_frames": 6}
_SETTINGS = {
    "release": {"image": {"select_feature": "patches"}, "video": {**_FRAMES, "select_feature": "pooled"}},
    "current": {"image": {"select_feature": "patches"}, "video": {**_FRAMES, "select_feature": "patches"}},
}
_IMAGE = {"projection_size": 512, "conv_kernel": 48, "conv_stride": 36}
_AUDIO = {"conv_kernel": 240, "conv_stride": 220}
_VIDEO = {"projection_size": 512, "self_attention": "long", "conv_kernel": 36, "conv_stride": 30}
_SHARED = {"align_heads": 8, "shares": {"align_attention": "video"}}
_ALIGNERS = {
    "release": {
        "image": {**_IMAGE, **_SHARED},
        "audio": {**_AUDIO, **_SHARED},
        "video": {"projection_size": 512, "self_attention": "temporal", "align_heads": 8},
    },
    "current": {"image": _IMAGE, "audio": _AUDIO, "video": _VIDEO},
}


def _processor(name: str, settings: dict[str, Any]) -> Any:
    """The sub-processor of a CLIP or Whisper tower whose config is at hand; others are found with their tower."""
    config = config_at_hand(settings["tower"])
    if isinstance(config, WhisperConfig):
        return whisper_processor(config)
    if not isinstance(config, CLIPVisionConfig):
        return None
    if name == "video":
        return MacawVideoProcessor(num_frames=settings["num_frames"], **cropped(config.image_size))
    return CLIPImageProcessor(**cropped(config.image_size))


def whisper_processor(config: WhisperConfig) -> WhisperFeatureExtractor:
    """Whisper's, with a window of as many frames as the tower reads (30 s as published)."""
    frames, rate = 2 * config.max_source_positions, 16000
    seconds = next(s for s in count(max(1, frames // 100)) if rate * s // (rate * s // frames) == frames)
    return WhisperFeatureExtractor(
        feature_size=config.num_mel_bins, chunk_length=seconds, hop_length=rate * seconds // frames
    )


EXTRACTED_FRAMES = 120


class MacawVideoProcessor(VideoLlavaVideoProcessor):
    """CLIP's transform of each frame, as Video-LLaVA's."""

    num_frames = 6

    def frame_indices(self, total: int, fps: float) -> list[int]:
        """As in the original, which first extracted 120 frames: every `total // 120`-th, and the last one as the 120th.

        With six frames, the model reads every 20th of these, and the last. So it sees the tail of a long video only in its
        last frame. If a video has fewer than 120 frames, the original repeated some at random, in order. Here frames are
        spread evenly, which is the mean of such draws.
        """
        chosen = [place * (EXTRACTED_FRAMES // self.num_frames) for place in range(self.num_frames)]
        chosen[-1] = EXTRACTED_FRAMES - 1
        if total < EXTRACTED_FRAMES:
            return [place * total // EXTRACTED_FRAMES for place in chosen]
        return [*(place * (total // EXTRACTED_FRAMES) for place in chosen[:-1]), total - 1]


register_processor(AutoVideoProcessor, "macaw_video", MacawVideoProcessor)
