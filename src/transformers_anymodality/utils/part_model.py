"""Base classes of this package's towers and aligners, and of their attention layers."""

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from .upstream import set_attention


class PartModel(PreTrainedModel):
    """Base of towers and aligners, with every attention that Transformers offers. Bare parameters (latents, queries, class
    tokens, learned positions) are initialised like embeddings."""

    base_model_prefix = ""
    input_modalities = ()
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        for name, parameter in module.named_parameters(recurse=False):
            if name not in ("weight", "bias"):
                init.normal_(parameter, mean=0.0, std=self.config.initializer_range)


class Attention(nn.Module):
    """Base of attention layers; their forwards project, split heads and call an implementation, as in Transformers.
    `config` is the part's; users choose the implementation there."""

    # Implementations read these: whether attention is causal, and how many heads share a key.
    is_causal = False
    num_key_value_groups = 1

    def __init__(self, config: PreTrainedConfig, head_dim: int):
        super().__init__()
        self.config, self.head_dim, self.scaling = config, head_dim, head_dim**-0.5


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The plain implementation, with Transformers' interface.

    Args:
        query, key, value: `(b, heads, n, head_dim)` and twice `(b, heads, m, head_dim)`.
        attention_mask: broadcastable to `(b, heads, n, m)`; bool with True = visible, or scores to add.
        dropout: of weights, in training.

    Returns:
        The attended values `(b, n, heads, head_dim)` and the weights `(b, heads, n, m)`.
    """
    scores = (query * scaling) @ key.transpose(-1, -2)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def same_attention(inner: PreTrainedModel, config: PreTrainedConfig) -> PreTrainedModel:
    """`inner`, a Transformers model inside a part, with the attention in the part's `config`: Transformers sets the
    attention of a part by its config, and does not know models inside it."""
    set_attention(inner.config, config._attn_implementation)
    return inner
