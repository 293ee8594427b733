"""mPLUG-Owl: a visual abstractor ([2304.14178](https://arxiv.org/abs/2304.14178))."""

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
