"""The Perceiver resampler of Flamingo (arXiv 2204.14198, appendix A.1.1 and figure 5), then a projection.

Learned latents attend over the features and over themselves, layer by layer, so that any number of features becomes a
fixed number of tokens. Weights of the two public implementations load by renaming: the layers are theirs, in the
order attention (pre-normed media and latents) and feed-forward, with no biases but in the norms.
"""

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..utils.part_model import Attention, eager_attention_forward
from ._base import Aligner, AlignerConfig, register_aligner


class PerceiverResamplerAlignerConfig(AlignerConfig):
    """
    Args:
        num_tokens: latents, and so tokens per item (per frame with `per_frame`).
        depth: layers.
        num_heads, head_dim: attention heads and their width; their product need not be `feature_size`.
        ff_mult: width of the feed-forward layer over `feature_size`.
        qk_norm: LayerNorm on each head's queries and keys (IDEFICS).
        per_frame: resample each frame on its own, for `frames * num_tokens` tokens; else all frames together.
        frame_embeddings: learned embeddings of that many frames, added to their features; 0 for none.
        time_embeddings: learned embeddings of that many clips (the frames, with `per_frame`); 0 for none.
        project: end with a linear layer to the language model's width; without it `hidden_size` is `feature_size`.
    """

    model_type = "perceiver_resampler_aligner"

    num_tokens: int = 64
    depth: int = 6
    num_heads: int = 8
    head_dim: int = 64
    ff_mult: int = 4
    hidden_act: str = "gelu"
    qk_norm: bool = False
    per_frame: bool = False
    frame_embeddings: int = 0
    time_embeddings: int = 0
    project: bool = True
    projection_bias: bool = True
    layer_norm_eps: float = 1e-5

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if not self.project and self.hidden_size != self.feature_size:
            raise ValueError(
                f"project=False needs hidden_size {self.hidden_size} == feature_size {self.feature_size}."
            )


class PerceiverResamplerAttention(Attention):
    """Latents attend over media features and themselves (keys and values of both, media first)."""

    def __init__(self, config: PerceiverResamplerAlignerConfig):
        super().__init__(config, config.head_dim)
        dim, inner = config.feature_size, config.head_dim * config.num_heads
        self.norm_media = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.norm_latents = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.q_proj = nn.Linear(dim, inner, bias=False)
        self.k_proj = nn.Linear(dim, inner, bias=False)
        self.v_proj = nn.Linear(dim, inner, bias=False)
        self.o_proj = nn.Linear(inner, dim, bias=False)
        self.q_norm = nn.LayerNorm(config.head_dim, eps=config.layer_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(config.head_dim, eps=config.layer_norm_eps) if config.qk_norm else nn.Identity()

    def forward(self, features: torch.Tensor, latents: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """`features (b, n, dim)`, `latents (b, k, dim)`, bool `mask (b, 1, 1, n + k)` -> `(b, k, dim)`."""
        latents = self.norm_latents(latents)
        context = torch.cat((self.norm_media(features), latents), dim=1)
        states = (self.q_proj(latents), self.k_proj(context), self.v_proj(context))
        query, key, value = (one.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for one in states)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        attended, _ = attend(self, self.q_norm(query), self.k_norm(key), value, mask, scaling=self.scaling)
        return self.o_proj(attended.flatten(2))


class PerceiverResamplerLayer(GradientCheckpointingLayer):
    def __init__(self, config: PerceiverResamplerAlignerConfig):
        super().__init__()
        dim = config.feature_size
        self.attention = PerceiverResamplerAttention(config)
        self.norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.up_proj = nn.Linear(dim, dim * config.ff_mult, bias=False)
        self.act = ACT2FN[config.hidden_act]
        self.down_proj = nn.Linear(dim * config.ff_mult, dim, bias=False)

    def forward(self, latents: torch.Tensor, features: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        latents = latents + self.attention(features, latents, mask)
        return latents + self.down_proj(self.act(self.up_proj(self.norm(latents))))


@register_aligner("perceiver_resampler")
class PerceiverResamplerAligner(Aligner):
    config: PerceiverResamplerAlignerConfig
    supports_gradient_checkpointing = True
    _no_split_modules = ["PerceiverResamplerLayer"]

    def __init__(self, config: PerceiverResamplerAlignerConfig):
        super().__init__(config)
        dim = config.feature_size
        self.latents = nn.Parameter(torch.empty(config.num_tokens, dim))
        for name in ("frame_embeddings", "time_embeddings"):
            rows = getattr(config, name)
            self.register_parameter(name, nn.Parameter(torch.empty(rows, dim)) if rows else None)
        self.layers = nn.ModuleList(PerceiverResamplerLayer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.projection = (
            nn.Linear(dim, config.hidden_size, bias=config.projection_bias) if config.project else nn.Identity()
        )
        self.post_init()

    def add_positions(self, features: torch.Tensor) -> torch.Tensor:
        """Adds the learned embeddings to `(items, clips, frames, length, dim)`."""
        for axis, name in ((2, "frame_embeddings"), (1, "time_embeddings")):
            embeddings = getattr(self, name)
            if embeddings is None:
                continue
            count = features.shape[axis]
            if count > len(embeddings):
                raise ValueError(f"{count} {'frames' if axis == 2 else 'clips'} given, but {name}={len(embeddings)}.")
            features = features + embeddings[:count].view(count, *(1,) * (3 - axis), -1)
        return features

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """As `Aligner.forward`; also takes `(items, clips, frames, length, dim)`, each clip resampled on its own."""
        if features.ndim == 4:
            axis = 2 if self.config.per_frame else 1
            features, mask = features.unsqueeze(axis), None if mask is None else mask.unsqueeze(axis)
        items, clips = features.shape[:2]
        features = self.add_positions(features).flatten(2, 3).flatten(0, 1)
        latents = self.latents.expand(features.shape[0], -1, -1)
        if mask is not None:
            mask = nn.functional.pad(mask.flatten(2).flatten(0, 1), (0, len(self.latents)), value=True)[:, None, None]
        for layer in self.layers:
            latents = layer(latents, features, mask)
        return self.projection(self.norm(latents)).unflatten(0, (items, clips)).flatten(1, 2)
