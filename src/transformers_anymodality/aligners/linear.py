"""One linear layer from the tower's width to the language model's.

AnyMAL (arXiv 2309.16058, section 3) aligns audio and IMU so, LLaVA v1 (arXiv 2304.08485, section 4.1) images.
"""

import torch
from torch import nn

from ._base import Aligner, AlignerConfig, pool_to_tokens, register_aligner


class LinearAlignerConfig(AlignerConfig):
    """`num_tokens=None`: one token per feature. A number: a single (pooled) feature is projected to that many tokens
    at once; a sequence is averaged to that many first."""

    model_type = "linear_aligner"

    bias: bool = True

    @property
    def reads(self) -> str:
        return "feature" if self.num_tokens is None else "item"


@register_aligner("linear")
class LinearAligner(Aligner):
    config: LinearAlignerConfig

    def __init__(self, config: LinearAlignerConfig):
        super().__init__(config)
        self.expands = config.num_tokens is not None and config.feature_length == config.num_frames == 1
        width = config.hidden_size * (config.num_tokens if self.expands else 1)
        self.projection = nn.Linear(config.feature_size, width, bias=config.bias)
        self.post_init()

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        features = features.flatten(1, 2)
        if self.expands:
            return self.projection(features).unflatten(-1, (self.config.num_tokens, -1)).flatten(1, 2)
        if self.config.num_tokens is not None:
            features = pool_to_tokens(features, None if mask is None else mask.flatten(1), self.config.num_tokens)
        return self.projection(features)
