"""Macaw-LLM's alignment (arXiv 2306.09093, section 3.2).

A convolution shortens the features, a linear layer widens them, and attention over the language model's whole token table
turns each into a blend of words. The published code has two graphs. Both are one chain, and a config leaves parts of it
out: visual projection, positions and self-attention, convolution, linear layer, attention over the table. It has neither
residuals nor norms."""

import math

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ...aligners import Aligner, AlignerConfig, register_aligner
from ...utils.part_model import Attention, eager_attention_forward


class MacawAlignerConfig(AlignerConfig):
    """
    Args:
        projection_size: width of a linear layer without bias in front (CLIP's visual projection). None: no such layer.
        self_attention: attention over all features of an item. "long" adds sinusoids first, "temporal" a learned embedding
            of each frame. None: no self-attention.
        conv_kernel, conv_stride: convolution over all features of an item, frame after frame. None: no convolution, one
            token per feature.
        attention_heads, align_heads: heads of the self-attention, and of the attention over the token table.
        attended_rows: number of rows of the token table that are attended, from the first on. None: all. Rows behind the
            vocabulary (placeholders, padding to a round number) are not words.
    """

    model_type = "macaw_aligner"

    projection_size: int | None = None
    self_attention: str | None = None
    attention_heads: int = 8
    conv_kernel: int | None = None
    conv_stride: int = 1
    align_heads: int = 16
    attention_dropout: float = 0.1
    attended_rows: int | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.self_attention not in (None, "long", "temporal"):
            raise ValueError(f'self_attention must be "long", "temporal" or None, not {self.self_attention!r}.')
        if self.num_tokens is not None:
            raise ValueError("A macaw aligner's tokens follow from conv_kernel and conv_stride; leave num_tokens out.")

    @property
    def inner_size(self) -> int:
        """Width of the features from the projection to the linear layer."""
        return self.projection_size or self.feature_size

    @property
    def reads(self) -> str:
        return "item"

    def count_tokens(self, frames: int, length: int) -> int:
        """Windows of the convolution. Features that are fewer than one window are padded to one."""
        if self.conv_kernel is None:
            return frames * length
        return max(0, frames * length - self.conv_kernel) // self.conv_stride + 1


class MacawAttention(Attention):
    """torch's `nn.MultiheadAttention` with `add_bias_kv` and `add_zero_attn`, and the same names of weights. So a learned
    pair and a pair of zeros follow the keys and values.

    With few queries, keys and values are not computed. A score `(W_q x + b_q) . (W_k e + b_k)` is
    `(W_k^T (W_q x + b_q)) . e` plus a term without `e`; values are handled likewise, after the weighted sum. Each query and
    head then reads the context itself, which is `heads` times as wide as a key. This is cheaper while queries x (heads - 1)
    < width, as for the tokens of a few items against a vocabulary. With more queries, keys and values are computed once for
    all, and attention weights of size queries x vocabulary need not be kept.
    """

    def __init__(self, config: MacawAlignerConfig, size: int, heads: int):
        if size % heads:
            raise ValueError(f"Attention of width {size} cannot have {heads} heads; its heads must divide the width.")
        super().__init__(config, size // heads)
        self.heads = heads
        # Parameters, not linear layers: a sharded parameter is whole only while the module that owns it runs.
        self.in_proj_weight = nn.Parameter(torch.empty(3 * size, size))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * size))
        self.bias_k = nn.Parameter(torch.empty(1, 1, size))
        self.bias_v = nn.Parameter(torch.empty(1, 1, size))
        self.out_proj = nn.Linear(size, size)

    def forward(self, query: torch.Tensor, context: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """`query (b, n, size)`, `context (b, m, size)`, bool `mask (b, m)`, True = visible -> `(b, n, size)`."""
        few = query.shape[1] * (self.heads - 1) < query.shape[2]
        states = (self._absorb if few else self._form)(query, context, mask)
        return self.out_proj(states.flatten(2))

    def _form(self, query: torch.Tensor, context: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """By keys and values: `(b, n, heads, head size)`."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        sources, tails = (query, context, context), (None, self.bias_k, self.bias_v)
        heads = []
        for source, weight, bias, tail in zip(sources, weights, biases, tails, strict=True):
            states = nn.functional.linear(source, weight, bias)
            if tail is not None:
                states = torch.cat(
                    (states, tail.expand(states.shape[0], -1, -1), torch.zeros_like(states[:, :1])), dim=1
                )
            heads.append(states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2))
        if mask is not None:
            mask = nn.functional.pad(mask, (0, 2), value=True)[:, None, None]
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.attention_dropout if self.training else 0.0
        return attend(self, *heads, mask, dropout=dropout, scaling=self.scaling)[0]

    def _absorb(self, query: torch.Tensor, context: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """By the context itself: `(b, n, heads, head size)`."""
        to_query, *weights = self.in_proj_weight.chunk(3)
        to_key, to_value = (weight.unflatten(0, (self.heads, -1)) for weight in weights)
        query_bias, *biases = self.in_proj_bias.chunk(3)
        key_bias, value_bias, key, value = (
            bias.view(self.heads, 1, -1) for bias in (*biases, self.bias_k, self.bias_v)
        )
        query = nn.functional.linear(query, to_query, query_bias) * self.scaling
        query = query.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        # Heads behind each other: a product that is broadcast over them would copy the context for each.
        scores = torch.einsum("bhnd,hdc->bhnc", query, to_key).flatten(1, 2) @ context.transpose(1, 2)
        scores = scores.unflatten(1, (self.heads, -1)) + (query * key_bias).sum(-1, keepdim=True)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], torch.finfo(scores.dtype).min)
        learned = (query * key).sum(-1, keepdim=True)
        scores = torch.cat((scores, learned, torch.zeros_like(learned)), dim=-1)
        shares = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        shares = nn.functional.dropout(shares, p=self.config.attention_dropout, training=self.training)
        read, learned = shares[..., :-2], shares[..., -2:-1]
        states = (read.flatten(1, 2) @ context).unflatten(1, (self.heads, -1))
        states = torch.einsum("bhnc,hdc->bhnd", states, to_value)
        return (states + read.sum(-1, keepdim=True) * value_bias + learned * value).transpose(1, 2)


def sinusoids(length: int, size: int) -> torch.Tensor:
    """Macaw-LLM's table of positions, `(length, size)` float32: places `i` and `i + 1`, for even `i`, hold sine and cosine
    of `position * 10000^(-2i / size)`. The usual table has `-i / size`: here `i` goes by steps of two, doubled once more."""
    place = torch.arange(0, size, 2, dtype=torch.float64, device="cpu")
    angle = torch.arange(length, dtype=torch.float64, device="cpu")[:, None] * torch.exp(
        place * (-2 * math.log(10000) / size)
    )
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)[:, :size].float()


@register_aligner("macaw")
class MacawAligner(Aligner):
    """Features may be of any length: those that the mask leaves out are neither attended nor in a counted window."""

    config: MacawAlignerConfig
    reads_token_embeddings = True
    _supports_flash_attn = False  # heads as wide as 512, and weights that are read by their parts
    _supports_flex_attn = False

    def __init__(self, config: MacawAlignerConfig):
        super().__init__(config)
        size = config.inner_size
        projects, attends = config.projection_size is not None, config.self_attention is not None
        self.visual_projection = nn.Linear(config.feature_size, size, bias=False) if projects else nn.Identity()
        temporal = config.self_attention == "temporal"
        self.position_embeddings = nn.Parameter(torch.empty(config.num_frames, size)) if temporal else None
        self.self_attention = MacawAttention(config, size, config.attention_heads) if attends else None
        shortens = config.conv_kernel is not None
        self.conv = nn.Conv1d(size, size, config.conv_kernel, config.conv_stride) if shortens else None
        self.projection = nn.Linear(size, config.hidden_size)
        self.align_attention = MacawAttention(config, config.hidden_size, config.align_heads)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MacawAttention):  # as torch does
            init.xavier_uniform_(module.in_proj_weight)
            init.zeros_(module.in_proj_bias)
            init.xavier_normal_(module.bias_k)
            init.xavier_normal_(module.bias_v)
        elif isinstance(module, nn.Conv1d):  # wide kernels would blow features up
            init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)

    def add_positions(self, features: torch.Tensor) -> torch.Tensor:
        """`(items, frames, length, dim)`, with the positions that the self-attention goes by."""
        frames, length, size = features.shape[1:]
        if self.config.self_attention == "long":
            return features + sinusoids(frames * length, size).unflatten(0, (frames, length)).to(features)
        if frames > len(self.position_embeddings):
            raise ValueError(f"{frames} frames given, but there are embeddings of {len(self.position_embeddings)}.")
        return features + self.position_embeddings[:frames, None]

    def shorten(self, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """`(items, length, dim)` -> `(items, windows, dim)`, by the convolution."""
        if mask is not None:
            states = states.masked_fill(~mask[..., None], 0)
        states = nn.functional.pad(states.transpose(1, 2), (0, max(0, self.conv.kernel_size[0] - states.shape[1])))
        return self.conv(states).transpose(1, 2)

    def forward(
        self,
        features: torch.Tensor,
        mask: torch.Tensor | None = None,
        token_embeddings: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As `Aligner.forward`; `token_embeddings (vocab, hidden)` is the language model's table, and learns with it."""
        if token_embeddings is None:
            raise ValueError("A macaw aligner attends over the language model's table: give `token_embeddings`.")
        features = self.visual_projection(features)
        if self.self_attention is not None:
            features = self.add_positions(features)
        states, mask = features.flatten(1, 2), None if mask is None else mask.flatten(1)
        if self.self_attention is not None:
            states = self.self_attention(states, states, mask)
        if self.conv is not None:
            states = self.shorten(states, mask)
        states = self.projection(states)
        # One batch of queries: all items read the same table.
        queries = states.flatten(0, 1)[None]
        tokens = self.align_attention(queries, token_embeddings[None, : self.config.attended_rows])
        return tokens[0].view_as(states)
