"""mPLUG-Owl ([2304.14178](https://arxiv.org/abs/2304.14178), first version) talks about images and videos, 65 tokens each.

A ViT of its own reads them (`MplugOwlVisionModel`; in the release for videos it also mixes frames). A visual abstractor
with learned queries reads the ViT's features (`VisualAbstractorAligner`). The language model is LLaMA, or BLOOMZ with an
embedding norm that media bypass. `anymodality convert mplug_owl` converts all three releases.
"""

from functools import partial
from typing import Any

from transformers import (
    AutoImageProcessor,
    AutoVideoProcessor,
    CLIPImageProcessorPil,
    LlamaConfig,
    VideoLlavaVideoProcessor,
)

from ...processing.tokenization import PIECE_END
from ...utils.imports import require
from .._base import WORDS, config_at_hand, register_processor, register_system, template_beside, tower_settings
from .bloom import MplugOwlBloomConfig
from .tower import MplugOwlVisionConfig


RELEASES = ("llama", "bloomz", "video")

SYSTEM = (
    "The following is a conversation between a curious human and AI assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)

_TEMPLATE = WORDS + template_beside(__file__)


@register_system
def mplug_owl(
    language_model: Any = None,
    tokenizer: Any = None,
    *,
    release: str = "llama",
    num_frames: int = 4,
    towers: dict[str, Any] | None = None,
    aligners: dict[str, Any] | None = None,
    faithful: bool = False,
) -> dict[str, Any]:
    """mPLUG-Owl (arXiv 2304.14178, first version): arguments of `compose`.

    A dialogue begins with a system line, which a system message replaces. Each item and each text of a user is a line:
    `Human: <image>`, `Human: What is this?`. An answer is `AI: `, the text, and the end token. Only answers and their end
    tokens are learned. Any number of images and videos may stand anywhere.

    Where paper, code and releases differ or are silent:

    - The system line is the README's. The demo has "between a curious human and AI. The AI gives". Its prompts end in `AI:`
      without a space, and its earlier answers have no end token. Training has the space and the token.
    - Text is tokenised piece by piece, as in training: system line, `\\nHuman: `, a question with its line end, `AI: `, an
      answer. The release's own inference cuts at media only. SentencePiece then gives other tokens for `Human: ` and `AI: `
      than those that were learned.
    - Generation samples from the best 3 tokens, as the release's generation config says. Its limit of 512 counts new tokens.
      The README has the best 5; the demo has other settings.
    - Images lose their aspect ratio. The training code also crops at random; that is left to you.
    - In "llama" and "bloomz", a video is read frame by frame and gives `num_frames` times 65 tokens. The demo gives frames
      as images with line ends between them; for the same, give images. In "video", the tower mixes frames and the aligner
      gives 65 tokens for all. Class tokens are doubled in each layer of that tower: see `MplugOwlVisionConfig`.
    - Frames are those of the release. Its video decoder also scales them, for which there is no exact equal.
    - Plain bugs are not kept, even by `faithful`: two items side by side were taken for one, in "video" all images of a
      prompt got the features of the first, training on videos never looked at them, and padding on the right spoilt
      generation in batches.

    Args:
        language_model, tokenizer: as for `compose`. Default: LLaMA-7B's config, or BLOOMZ-7B's with the embedding norm
            in the embedding (`MplugOwlBloomConfig`).
        release: "llama", "bloomz" or "video" (the release for videos, with LLaMA).
        towers: `{"image": tower}`, or settings as for `compose`, instead of a ViT-L/14. Videos use it too.
        aligners: fields of `VisualAbstractorAlignerConfig`.
        faithful: in prompts to be answered (not in training), cut text at media only, and leave out the end tokens of
            earlier answers.
    """
    if release not in RELEASES:
        raise ValueError(f"release is {release!r}; mPLUG-Owl has {', '.join(RELEASES)}.")
    if language_model is None and release == "bloomz":
        language_model = MplugOwlBloomConfig(vocab_size=250880, hidden_size=4096, n_layer=30, n_head=32)
    elif language_model is None:
        language_model = LlamaConfig(rms_norm_eps=1e-6)
    return {
        "language_model": language_model,
        "tokenizer": tokenizer,
        "modalities": modalities(release == "video", num_frames, towers or {}, aligners or {}),
        "chat_template": chat_template(faithful),
        "text": {"piecewise": True},
        "generation": {"do_sample": True, "top_k": 3, "max_new_tokens": 512},
    }


def modalities(
    temporal: bool, num_frames: int, towers: dict[str, Any], aligners: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    require("PIL.Image")
    require("torchvision", "image")
    settings = tower_settings(towers.get("image"), partial(MplugOwlVisionConfig, temporal=temporal))
    side = getattr(config_at_hand(settings["tower"]), "image_size", 224)
    size = {"height": side, "width": side}
    return {
        "image": {
            "processor": MplugOwlImageProcessor(size=size),
            "aligner": {"type": "visual_abstractor", "temporal": temporal, **aligners},
            **settings,
        },
        "video": {
            "tower": "image",
            "aligner": "image",
            "processor": MplugOwlVideoProcessor(size=size, num_frames=num_frames),
            "num_frames": num_frames,
            "per_frame": not temporal,
            "token": "<|video|>",
        },
    }


def chat_template(faithful: bool = False) -> str:
    cut, end = f"'{PIECE_END}'", "eos_token"
    if faithful:
        cut, end = (f"('' if add_generation_prompt else {text})" for text in (cut, end))
    system = "'" + SYSTEM.replace("'", "\\'") + "'"
    return _TEMPLATE.replace("CUT", cut).replace("END", end).replace("SYSTEM", system)


class MplugOwlImageProcessor(CLIPImageProcessorPil):
    """CLIP's, but squashes images to a square instead of cropping them. Pillow resizes, as in the release, and saved
    processors say so: Torchvision rounds some pixels to another of the 256 levels."""

    size = {"height": 224, "width": 224}
    do_center_crop = False


class MplugOwlVideoProcessor(VideoLlavaVideoProcessor):
    """Squashes frames as images are."""

    size = {"height": 224, "width": 224}
    do_center_crop = False
    num_frames = 4

    def frame_indices(self, total: int, fps: float) -> list[int]:
        """Frames out of `total`, evenly spread; the first is half a step from the start. Short videos repeat some."""
        step = (total - 1) / self.num_frames
        return [int(step / 2) + round(step * i) for i in range(self.num_frames)]


_NAME = "mplug_owl_processor"
register_processor(AutoImageProcessor, _NAME, image_processor_classes={"pil": MplugOwlImageProcessor})
register_processor(AutoVideoProcessor, _NAME, MplugOwlVideoProcessor)
