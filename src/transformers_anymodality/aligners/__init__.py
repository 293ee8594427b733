"""Aligners turn tower features into language-model tokens. One file each; registered by name."""

from ._base import ALIGNERS, Aligner, AlignerConfig, register_aligner
from .linear import LinearAligner, LinearAlignerConfig
from .mlp import MlpAligner, MlpAlignerConfig
from .perceiver_resampler import PerceiverResamplerAligner, PerceiverResamplerAlignerConfig
from .qformer import QFormerAligner, QFormerAlignerConfig


__all__ = [
    "ALIGNERS",
    "Aligner",
    "AlignerConfig",
    "LinearAligner",
    "LinearAlignerConfig",
    "MlpAligner",
    "MlpAlignerConfig",
    "PerceiverResamplerAligner",
    "PerceiverResamplerAlignerConfig",
    "QFormerAligner",
    "QFormerAlignerConfig",
    "register_aligner",
]
