"""X-LLM ([2305.04160](https://arxiv.org/abs/2305.04160)) treats images, videos and speech as foreign languages for ChatGLM.

This folder holds the parts that Transformers lacks: continuous integrate-and-fire (`CifModel`), the speech interface around
it (`SpeechInterfaceAligner`), and ChatGLM-6B (`ChatGLMForCausalLM`). `anymodality convert x_llm` reads checkpoints of its
training, `anymodality convert cif` a CIF alone.
"""

from typing import Any

from transformers import AutoConfig, Blip2VisionConfig, BlipImageProcessor

from ...processing.tokenization import PIECE_END
from ...towers.precomputed import PrecomputedConfig
from .._base import WORDS, config_at_hand, cropped, register_system, template_beside, tower_settings
from .chatglm import ChatGLMConfig
from .media import XLlmVideoProcessor


# The token that an answer of ChatGLM-6B fills, and the token that begins it.
CHATGLM_TAIL = ("[gMASK]", "<sop>")

_TEMPLATE = WORDS + template_beside(__file__)


@register_system
def x_llm(
    language_model: Any = None,
    tokenizer: Any = None,
    *,
    frames: int = 5,
    towers: dict[str, Any] | None = None,
    aligners: dict[str, Any] | None = None,
    faithful: bool = False,
) -> dict[str, Any]:
    """X-LLM (arXiv 2305.04160): arguments of `compose`.

    Images and frames of videos go through BLIP-2's ViT-g and one Q-Former. Images and videos have separate queries and
    projections. Speech is given as features of a CIF speech encoder, one row per spoken token (`.npy`, at most 20 rows of
    width 512), and a BERT reads them.

    All media stand in front of the chat: images, then speech, then videos, as `<Image>...</Image>` and so on. A single
    question is `问：{question}\\n答：`. Several turns are rounds:
    `[Round 0]\\n问：{question}\\n答：{answer}\\n[Round 1]\\n...`. With ChatGLM-6B, `[gMASK]<sop>` stands in front of
    the answer. Only the last answer is learned, with its `<sop>` and end token; earlier answers are context.

    Where paper, code and releases differ or are silent:

    - Neither the speech encoder nor any weights were released. For audio files, name a speech encoder (Whisper,
      wav2vec 2.0, ...): `towers={"audio": ...}`. The modality "audio" then replaces "speech". A CIF, which must be
      trained, stands in front of its BERT.
    - The paper has one Q-Former for images and another for videos. In the code, both use the same one, and here too. For
      two, give `aligners={"video": {"shares": None}}`.
    - A question about an image and speech is given as it is, without `问：`, as in the instruction data.
    - Images are resized to a square, as in BLIP-2's evaluation. The code crops them at random, in evaluation too.
    - A video is its first seconds, one per frame (5 in training, 10 in the demo).
    - Prompts are not cut to the code's 31 tokens, nor answers to 30 or 198.
    - Generation samples as the code does: top-p 0.7, temperature 0.95. Its demo streams by contrastive search, which
      Transformers no longer has. Its evaluation of transcripts has 5 beams: `num_beams=5, do_sample=False`.

    Args:
        language_model, tokenizer: as for `compose`. Default: ChatGLM-6B's config; its tokenizer must have `[gMASK]` and
            `<sop>` as special tokens.
        towers: "image" -> tower, or settings as for `compose`, instead of ViT-g (videos use it too); "speech" -> tower
            instead of `PrecomputedConfig()`; "audio" -> a speech encoder.
        aligners: "image" -> fields of `QFormerAlignerConfig` for images and videos; "video" -> for videos only; "speech" ->
            fields of `SpeechInterfaceAlignerConfig`, for "audio" too.
        faithful: let the language model see the padding of speech, pad short videos with frames of zeros (otherwise their
            frames are spread over the video), and set `CifConfig.faithful`.
    """
    tail = CHATGLM_TAIL if is_chatglm(language_model) else ("", "")
    return {
        "language_model": ChatGLMConfig() if language_model is None else language_model,
        "tokenizer": tokenizer,
        "modalities": modalities(frames, towers or {}, aligners or {}, faithful),
        "chat_template": chat_template(*tail),
        "text": {"piecewise": True},
        "generation": {"do_sample": True, "top_p": 0.7, "temperature": 0.95, "max_new_tokens": 512},
    }


def is_chatglm(language_model: Any) -> bool:
    """Whether a language model, as `compose` takes it, is ChatGLM-6B (or none is given)."""
    config = getattr(language_model, "config", language_model)
    if isinstance(config, str):
        config = AutoConfig.from_pretrained(config)
    return config is None or isinstance(config, ChatGLMConfig)


def chat_template(filled: str = "", begin: str = "") -> str:
    """Media, then rounds. `filled` ends the prompt, and `begin` begins the answer."""
    template = _TEMPLATE
    for name, piece in {"CUT": PIECE_END, "FILLED": filled, "BEGIN": begin}.items():
        template = template.replace(name, f"'{piece}'")
    return template


def modalities(
    frames: int, towers: dict[str, Any], aligners: dict[str, Any], faithful: bool = False
) -> dict[str, dict[str, Any]]:
    """Settings of image, video and speech (or audio) for `compose`; the arguments are those of `x_llm`."""
    image = tower_settings(towers.get("image"), Blip2VisionConfig)
    config = config_at_hand(image["tower"])
    side = getattr(config, "image_size", 224)
    # The aligner's norm, which has another epsilon, replaces ViT-g's last norm.
    qformer = {"type": "qformer", "feature_norm_eps": 1e-5, **aligners.get("image", {})}
    shared = ["qformer_layers"] if qformer["feature_norm_eps"] is None else ["qformer_layers", "feature_norm"]
    video = {"per_frame": True, "shares": dict.fromkeys(shared, "image"), **aligners.get("video", {})}
    speech = {"type": "speech_interface", "faithful": faithful, **aligners.get("speech", {})}
    settings = {
        "image": {
            "processor": BlipImageProcessor(size={"height": side, "width": side}),
            "select_layer": -1 if isinstance(config, Blip2VisionConfig) else None,
            "aligner": qformer,
            **image,
        },
        "video": {
            "tower": "image",
            "processor": XLlmVideoProcessor(**cropped(side), num_frames=frames, fill_with_zeros=faithful),
            "num_frames": frames,
            "per_frame": True,
            "aligner": {**qformer, **video},
        },
    }
    if "audio" in towers:
        cif = {"faithful": faithful, **(speech.get("cif") or {})}
        settings["audio"] = {"aligner": {**speech, "cif": cif}, **tower_settings(towers["audio"])}
    if "speech" in towers or "audio" not in towers:
        tower = tower_settings(towers.get("speech"), PrecomputedConfig)
        width = getattr(tower["tower"], "hidden_size", 512)
        settings["speech"] = {"aligner": {"token_size": width, **speech, "cif": None}, **tower}
    return settings
