"""The visual abstractor of mPLUG-Owl (arXiv 2304.14178, section 3.1), then a projection and a learned end token.

Learned queries attend over themselves and the features, layer by layer, so that each image becomes a fixed number of
tokens. The paper says no more; the rest is as in the release. Two things are unusual: the residual of the attention is the
normed query, and the gated feed-forward layer has another norm inside. The video release gives all frames of a video to the
layers at once, with as many temporal queries beside the others, and adds the two halves.
"""

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ...aligners import Aligner, AlignerConfig, register_aligner
from ...utils.part_model import Attention, eager_attention_forward


class VisualAbstractorAlignerConfig(AlignerConfig):
    """
    Args:
        num_tokens: tokens per item (without `temporal`: per frame), which are the queries and the end token.
        intermediate_size: width of the feed-forward layers. The release's configs say 4096, but its weights have 2816.
        layer_norm_eps, ffn_layer_norm_eps: epsilon of the norms around the attention, and within the feed-forward layers.
        temporal: the queries of a video attend over all its frames, together with temporal queries. Without it, each frame
            is an image.
        frame_length: features per frame, for a tower that gives the features of all frames in one sequence. Default:
            `feature_length`, as where a video borrows the aligner of images.
    """

    model_type = "visual_abstractor_aligner"

    num_tokens: int = 65
    depth: int = 6
    num_heads: int = 16
    intermediate_size: int = 2816
    attention_dropout: float = 0.1
    layer_norm_eps: float = 1e-5
    ffn_layer_norm_eps: float = 1e-6
    temporal: bool = False
    frame_length: int | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.feature_size % self.num_heads:
            raise ValueError(f"feature_size {self.feature_size} is not a multiple of num_heads {self.num_heads}.")
        if self.num_tokens < 2:
            raise ValueError(f"num_tokens is {self.num_tokens}; it must be 2 or more, because one is the end token.")

    def split_frames(self, frames: int, length: int) -> tuple[int, int]:
        """`(frames, length)`, after a sequence of several frames' features is split into its frames."""
        one = self.frame_length or self.feature_length or length
        if length % one == 0:
            return frames * length // one, one
        return frames, length

    @property
    def reads(self) -> str:
        return "item" if self.temporal else "frame"

    def count_tokens(self, frames: int, length: int) -> int:
        return self.num_tokens * (1 if self.temporal else self.split_frames(frames, length)[0])


class VisualAbstractorAttention(Attention):
    def __init__(self, config: VisualAbstractorAlignerConfig):
        dim = config.feature_size
        super().__init__(config, dim // config.num_heads)
        self.norm1 = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.normk = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, queries: torch.Tensor, features: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """`queries (b, k, dim)`, `features (b, n, dim)`, bool `mask (b, 1, 1, k + n)` -> `(b, k, dim)`, with residual."""
        queries = self.norm1(queries)
        context = torch.cat((queries, self.normk(features)), dim=1)
        states = (self.q_proj(queries), self.k_proj(context), self.v_proj(context))
        heads = [one.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for one in states]
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.attention_dropout if self.training else 0.0
        attended, _ = attend(self, *heads, mask, dropout=dropout, scaling=self.scaling)
        return queries + self.out_proj(attended.flatten(2))


class VisualAbstractorLayer(GradientCheckpointingLayer):
    def __init__(self, config: VisualAbstractorAlignerConfig):
        super().__init__()
        dim, inner = config.feature_size, config.intermediate_size
        self.attention = VisualAbstractorAttention(config)
        self.norm2 = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.w1 = nn.Linear(dim, inner)
        self.w2 = nn.Linear(inner, dim)
        self.w3 = nn.Linear(dim, inner)
        self.ffn_ln = nn.LayerNorm(inner, eps=config.ffn_layer_norm_eps)

    def forward(self, queries: torch.Tensor, features: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        queries = self.attention(queries, features, mask)
        normed = self.norm2(queries)
        return queries + self.w2(self.ffn_ln(nn.functional.silu(self.w1(normed)) * self.w3(normed)))


@register_aligner("visual_abstractor")
class VisualAbstractorAligner(Aligner):
    config: VisualAbstractorAlignerConfig
    supports_gradient_checkpointing = True
    _no_split_modules = ["VisualAbstractorLayer"]

    def __init__(self, config: VisualAbstractorAlignerConfig):
        super().__init__(config)
        dim = config.feature_size
        # Random: rows of zeros, as in the release before training, would stay equal to each other.
        self.queries = nn.Parameter(torch.empty(config.num_tokens - 1, dim))
        self.temporal_queries = nn.Parameter(torch.empty_like(self.queries)) if config.temporal else None
        self.layers = nn.ModuleList(VisualAbstractorLayer(config) for _ in range(config.depth))
        self.visual_fc = nn.Linear(dim, config.hidden_size)
        self.temporal_visual_fc = nn.Linear(dim, config.hidden_size) if config.temporal else None
        self.end_token = nn.Parameter(torch.empty(config.hidden_size))
        self.post_init()

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        items, frames, length, _ = features.shape
        count, _ = self.config.split_frames(frames, length)
        apart = not self.config.temporal
        features = features.flatten(1, 2).unflatten(1, (count, -1) if apart else (1, -1)).flatten(0, 1)
        frames_there = None if mask is None else mask.flatten(1).unflatten(1, (count, -1)).any(-1).sum(1)
        if mask is not None:
            mask = mask.flatten(1).view(features.shape[:2])
        tokens = self.resample(features, mask, temporal=not apart and count > 1)
        if frames_there is not None and not apart and count > 1 and (frames_there == 1).any():
            # An item with one frame is an image, even beside videos.
            still = self.resample(features, mask, temporal=False)
            tokens = torch.where((frames_there == 1).view(-1, 1, 1), still, tokens)
        tokens = torch.cat((tokens, self.end_token.expand(tokens.shape[0], 1, -1)), dim=1)
        return tokens.unflatten(0, (items, -1)).flatten(1, 2)

    def resample(self, features: torch.Tensor, mask: torch.Tensor | None, temporal: bool) -> torch.Tensor:
        """`features (b, n, dim)` of an image, or of all frames (`temporal`); bool `mask (b, n)` -> `(b, k, hidden)`."""
        queries = torch.cat((self.queries, self.temporal_queries)) if temporal else self.queries
        if mask is not None:
            mask = nn.functional.pad(mask, (len(queries), 0), value=True)[:, None, None]
        states = queries.expand(features.shape[0], -1, -1)
        for layer in self.layers:
            states = layer(states, features, mask)
        if not temporal:
            return self.visual_fc(states)
        spatial, over_time = states.chunk(2, dim=1)
        return self.visual_fc(spatial) + self.temporal_visual_fc(over_time)
