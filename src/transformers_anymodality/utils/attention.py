"""Attention layers of parts: heads, and whichever implementation of Transformers' the config chooses."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .upstream import attention_of, set_attention


class Attention(nn.Module):
    """Base of attention layers, whose projections subclasses make.

    Args:
        config: of the part, where users choose the implementation.
        head_dim: width of a head.
    """

    # Implementations ask for these: whether what comes later is hidden, and how many heads share a key.
    is_causal = False
    num_key_value_groups = 1

    def __init__(self, config: PreTrainedConfig, head_dim: int):
        super().__init__()
        self.config, self.head_dim, self.scaling = config, head_dim, head_dim**-0.5

    def split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """`(b, n, heads * head_dim)` -> `(b, heads, n, head_dim)`."""
        return states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None = None,
        dropout: float = 0.0,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            query, key, value: `(b, heads, n, head_dim)` and twice `(b, heads, m, head_dim)`.
            mask: broadcastable to `(b, heads, n, m)`; bool with True = visible, or scores to add.
            dropout: of weights, in training.

        Returns:
            `(b, n, heads * head_dim)`, and the weights `(b, heads, n, m)` if the implementation gives them.
        """
        function = ALL_ATTENTION_FUNCTIONS.get_interface(attention_of(self.config), eager_attention_forward)
        dropout = dropout if self.training else 0.0
        states, weights = function(self, query, key, value, mask, dropout=dropout, scaling=self.scaling, **kwargs)
        return states.flatten(2), weights


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
    """The plain implementation, with the arguments of Transformers' interface; see `Attention.attend`.

    Returns the attended values `(b, n, heads, head_dim)` and the weights.
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
    """`inner`, a model of Transformers' within a part, with the attention that the part's `config` says now.

    Transformers sets a part's attention by its config, and knows nothing of models inside.
    """
    set_attention(inner.config, attention_of(config))
    return inner
