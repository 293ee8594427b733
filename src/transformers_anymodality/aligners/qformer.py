"""BLIP-2's Querying Transformer (arXiv 2301.12597, section 3.1), the layers being Transformers' own, then a projection."""

import torch
from torch import nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from ..utils.part_model import same_attention
from ..utils.upstream import build
from ._base import Aligner, AlignerConfig, register_aligner


class QFormerAlignerConfig(AlignerConfig):
    """
    Args:
        num_tokens: query tokens, and so tokens per item (per frame with `per_frame`).
        qformer_hidden_size, depth, num_heads, intermediate_size: sizes of the Q-Former (BERT-base as published).
        cross_attention_frequency: a layer in so many attends to the features, beginning with the first.
        per_frame: the queries read each frame on its own, tokens in the frames' order; else all frames together.
        feature_norm_eps: epsilon of a LayerNorm that the features pass first, BLIP-2's `ln_vision`; None for none, as
            where a tower ends with that norm itself.
    """

    model_type = "qformer_aligner"

    num_tokens: int = 32
    qformer_hidden_size: int = 768
    depth: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    cross_attention_frequency: int = 2
    layer_norm_eps: float = 1e-12
    per_frame: bool = False
    feature_norm_eps: float | None = None


@register_aligner("qformer")
class QFormerAligner(Aligner):
    config: QFormerAlignerConfig
    supports_gradient_checkpointing = True
    _supports_flash_attn = False  # as BLIP-2's own Q-Former

    def __init__(self, config: QFormerAlignerConfig):
        super().__init__(config)
        if config.feature_norm_eps is not None:
            self.feature_norm = nn.LayerNorm(config.feature_size, eps=config.feature_norm_eps)
        self.queries = nn.Parameter(torch.empty(1, config.num_tokens, config.qformer_hidden_size))
        layers = Blip2QFormerConfig(
            hidden_size=config.qformer_hidden_size,
            num_hidden_layers=config.depth,
            num_attention_heads=config.num_heads,
            intermediate_size=config.intermediate_size,
            cross_attention_frequency=config.cross_attention_frequency,
            encoder_hidden_size=config.feature_size,
            initializer_range=config.initializer_range,
            layer_norm_eps=config.layer_norm_eps,
        )
        self.qformer_layers = build(Blip2QFormerModel, layers, attn_implementation=config._attn_implementation)
        self.projection = nn.Linear(config.qformer_hidden_size, config.hidden_size)
        self.post_init()

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        items = features.shape[0]
        if self.config.feature_norm_eps is not None:
            features = self.feature_norm(features)
        # What the queries read at once: a frame, or all of an item.
        first, last = (0, 1) if self.config.per_frame else (1, 2)
        features, mask = features.flatten(first, last), None if mask is None else mask.flatten(first, last)
        states = same_attention(self.qformer_layers, self.config)(
            query_embeds=self.queries.expand(features.shape[0], -1, -1).to(features.dtype),
            encoder_hidden_states=features,
            encoder_attention_mask=mask,
        ).last_hidden_state
        return self.projection(states).reshape(items, -1, self.config.hidden_size)
