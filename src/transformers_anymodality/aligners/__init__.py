"""Aligners turn tower features into language-model tokens. One file each; registered by name."""

from ._base import ALIGNERS, Aligner, AlignerConfig, register_aligner
from .linear import LinearAligner, LinearAlignerConfig
from .macaw import MacawAligner, MacawAlignerConfig
from .mlp import MlpAligner, MlpAlignerConfig
from .perceiver_resampler import PerceiverResamplerAligner, PerceiverResamplerAlignerConfig
from .qformer import QFormerAligner, QFormerAlignerConfig
from .speech_interface import SpeechInterfaceAligner, SpeechInterfaceAlignerConfig
from .visual_abstractor import VisualAbstractorAligner, VisualAbstractorAlignerConfig


__all__ = [
    "ALIGNERS",
    "Aligner",
    "AlignerConfig",
    "LinearAligner",
    "LinearAlignerConfig",
    "MacawAligner",
    "MacawAlignerConfig",
    "MlpAligner",
    "MlpAlignerConfig",
    "PerceiverResamplerAligner",
    "PerceiverResamplerAlignerConfig",
    "QFormerAligner",
    "QFormerAlignerConfig",
    "SpeechInterfaceAligner",
    "SpeechInterfaceAlignerConfig",
    "VisualAbstractorAligner",
    "VisualAbstractorAlignerConfig",
    "register_aligner",
]
