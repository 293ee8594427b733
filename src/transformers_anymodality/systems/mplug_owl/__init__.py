"""mPLUG-Owl ([2304.14178](https://arxiv.org/abs/2304.14178), first version) talks about images and videos, 65 tokens each.

A ViT of its own (`MplugOwlVisionModel`, which in the release for videos also mixes frames) and a visual abstractor, whose
learned queries read what it gives (`VisualAbstractorAligner`), make tokens that stand anywhere in a dialogue of `Human: `
and `AI: ` lines. The language model is LLaMA, or BLOOMZ with its embedding norm where media bypass it. All three releases
are converted by `anymodality convert mplug_owl`; OwlEval's ratings are an evaluation task.
"""

from .aligner import VisualAbstractorAligner, VisualAbstractorAlignerConfig
from .preset import RELEASES, SYSTEM, chat_template, modalities, mplug_owl
from .tower import MplugOwlVisionConfig, MplugOwlVisionModel


__all__ = [
    "RELEASES",
    "SYSTEM",
    "MplugOwlVisionConfig",
    "MplugOwlVisionModel",
    "VisualAbstractorAligner",
    "VisualAbstractorAlignerConfig",
    "chat_template",
    "modalities",
    "mplug_owl",
]
