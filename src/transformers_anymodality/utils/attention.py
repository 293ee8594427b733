"""Attention in aligners: the plain one that Transformers' interface falls back to, and that of models inside."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..utils.upstream import attention_of, set_attention


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
    """`query (b, h, n, d)`, `key` and `value (b, h, m, d)`, bool mask broadcastable to `(b, h, n, m)`, True = visible.

    Returns the attended values `(b, n, h, d)` and the weights `(b, h, n, m)`.
    """
    scores = (query * scaling) @ key.transpose(-1, -2)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def same_attention(inner: PreTrainedModel, config: PreTrainedConfig) -> PreTrainedModel:
    """`inner`, a model of Transformers' within an aligner, with the attention that the aligner's `config` says now.

    Transformers sets an aligner's attention by its config, and knows nothing of models inside.
    """
    set_attention(inner.config, attention_of(config))
    return inner
