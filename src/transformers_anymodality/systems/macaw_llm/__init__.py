"""Macaw-LLM ([2306.09093](https://arxiv.org/abs/2306.09093)) puts images, audio and videos in front of an Alpaca prompt.

CLIP reads images and frames, Whisper audio. A convolution shortens what they give, and each feature then attends over
LLaMA's whole table of token embeddings (`MacawAligner`), so that it becomes a blend of words. Its releases are converted by
`anymodality convert macaw_llm`, which tells by the file which graph it is of.
"""

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

    Prompts are Alpaca's: a user's message is the instruction, `{"role": "user", "content": ..., "input": ...}` one with
    an input. Media stand in front of it, images, then audio, then videos, whatever their order in the messages, each
    between two delimiters, `<image>` and `</image>`, which are added to a tokenizer that lacks them; placeholders are
    therefore called `<image_patch>` and so on.

    Where paper, code and release differ or are silent:

    - Two graphs. "release" is the code of June 2023 that made the released weights: a video is one pooled feature of
      each of 6 frames, which attend to each other, and all three modalities share one attention over the token table, of 8
      heads. "current" is the code of July 2023: all patches of a video's frames attend to each other and are shortened
      to 39 tokens, and each modality has an attention of its own, of 16 heads. Figure 1 shows another order of the
      modalities than either.
    - A modality that a prompt lacks is left out. The original encodes zeros for it, delimiters and all; who wants that,
      gives zeros as model inputs.
    - A medium's place in the messages is not kept, also not over several turns, which the original has none of: they
      are further instructions and responses. A system message takes the place of the first sentences.
    - The response is learned with its line ends, and an end token, without which a model does not learn to stop; the
      original leaves that one to the tokenizer.
    - Towers that are loaded from elsewhere bring no visual projection along; the aligner's starts at random.

    Args:
        language_model, tokenizer: as `compose`'s; LLaMA-7B's config if left out.
        graph: "release" or "current".
        towers: modality -> tower, or settings as `compose` takes them, instead of CLIP ViT-B/16 (images and videos have one
            each) and Whisper base.
        aligners: fields of `MacawAlignerConfig` for all modalities, and modality -> fields for one.
        faithful: also learn the colon of `### Response:`, and no end token, as the original with LLaMA's tokenizer.
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
    """How the system is spoken to and answers, as arguments of `compose`."""
    return {
        "chat_template": chat_template(faithful),
        "text": {"piecewise": True},
        "generation": {"do_sample": False, "max_new_tokens": 128},
    }


def with_delimiters(tokenizer: Any, language_model: Any) -> PreTrainedTokenizerBase:
    """A tokenizer of its own for the system, which knows the six delimiters."""
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
    """Whisper's, for any number of positions: its window holds as many frames as the tower reads (30 s as published)."""
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
        """120 frames were extracted beforehand: every `total // 120`-th, and the last one for the 120th; of these the model
        reads every 20th, and the last (for six frames). The tail of a long video is thus seen in its last frame alone.
        Of a video of fewer frames than 120, the original drew some twice, at random and in order; here they are spread
        evenly, which is what such a draw gives on average."""
        chosen = [place * (EXTRACTED_FRAMES // self.num_frames) for place in range(self.num_frames)]
        chosen[-1] = EXTRACTED_FRAMES - 1
        if total < EXTRACTED_FRAMES:
            return [place * total // EXTRACTED_FRAMES for place in chosen]
        return [*(place * (total // EXTRACTED_FRAMES) for place in chosen[:-1]), total - 1]


register_processor(AutoVideoProcessor, "macaw_video", MacawVideoProcessor)
