"""Two linear layers with a non-linearity, after optional merging of neighbouring features.

LLaVA-1.5 (arXiv 2310.03744, section 3.2) for the layers; pixel shuffle as in InternVL 1.5 (arXiv 2404.16821,
section 3.1); stride merging of consecutive frames is its one-dimensional form, usual for speech.
"""

import math

import torch
from torch import nn
from transformers.activations import ACT2FN

from ._base import Aligner, AlignerConfig, pool_to_tokens, register_aligner


class MlpAlignerConfig(AlignerConfig):
    """
    Args:
        pool: "none"; "pixel_shuffle" merges `pool_size` x `pool_size` squares of a square feature grid (a leading class
            token must be left out by the modality's `select_feature="patches"`); "stride" merges `pool_size`
            consecutive features.
        pool_size: side of the square, or features per group.
        stride: a short way to say `pool="stride"` and `pool_size`.
        intermediate_size: width between the two layers; None for the language model's width.
        hidden_act: name of the non-linearity in Transformers' `ACT2FN`.
    """

    model_type = "mlp_aligner"

    pool: str = "none"
    pool_size: int = 2
    intermediate_size: int | None = None
    hidden_act: str = "gelu"
    stride: int | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.stride is not None:
            self.pool, self.pool_size, self.stride = "stride", self.stride, None
        if self.pool not in ("none", "pixel_shuffle", "stride"):
            raise ValueError(f'pool must be "none", "pixel_shuffle" or "stride", not {self.pool!r}.')

    def merged_length(self, length: int) -> int:
        """Features per frame once neighbours are merged."""
        if self.pool == "pixel_shuffle":
            side = math.isqrt(length)
            if side * side != length or side % self.pool_size:
                raise ValueError(
                    f"pixel_shuffle merges squares of {self.pool_size} x {self.pool_size} features, but the tower gives "
                    f"{length} per frame, which is not a square grid divisible by {self.pool_size}. If one of them is a "
                    'class token, set the modality\'s select_feature="patches"; else use pool="stride".'
                )
            return (side // self.pool_size) ** 2
        return -(-length // self.pool_size) if self.pool == "stride" else length

    @property
    def reads(self) -> str:
        return "feature" if self.num_tokens is None and self.pool == "none" else super().reads

    def count_tokens(self, frames: int, length: int) -> int:
        return super().count_tokens(frames, self.merged_length(length))


@register_aligner("mlp")
class MlpAligner(Aligner):
    config: MlpAlignerConfig

    def __init__(self, config: MlpAlignerConfig):
        super().__init__(config)
        merged = {"none": 1, "stride": config.pool_size, "pixel_shuffle": config.pool_size**2}[config.pool]
        width = config.intermediate_size or config.hidden_size
        self.linear_1 = nn.Linear(config.feature_size * merged, width)
        self.act = ACT2FN[config.hidden_act]
        self.linear_2 = nn.Linear(width, config.hidden_size)
        self.post_init()

    def merge(self, features: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Merges neighbours: `(items, frames, length, dim)` -> `(items, frames, merged length, dim * merged)`."""
        size, length = self.config.pool_size, features.shape[2]
        if self.config.pool == "stride":
            missing = -length % size
            features = nn.functional.pad(features, (0, 0, 0, missing)).unflatten(2, (-1, size)).flatten(3)
            if mask is not None:
                mask = nn.functional.pad(mask, (0, missing)).unflatten(2, (-1, size)).any(-1)
        elif self.config.pool == "pixel_shuffle":
            side = math.isqrt(self.config.merged_length(length))
            grid = features.unflatten(2, (side, size, side, size))
            features = grid.permute(0, 1, 2, 4, 3, 5, 6).flatten(4).flatten(2, 3)
            if mask is not None:
                raise ValueError("pixel_shuffle needs items of one size; resize the images or use pool='stride'.")
        return features, mask

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        if mask is not None:
            features = features * mask.unsqueeze(-1).to(features.dtype)
        features, mask = self.merge(features, mask)
        features = features.flatten(1, 2)
        if self.config.num_tokens is not None:
            features = pool_to_tokens(features, None if mask is None else mask.flatten(1), self.config.num_tokens)
        return self.linear_2(self.act(self.linear_1(features)))
