"""What towers and aligners of our own have in common as models of Transformers."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init


class PartModel(PreTrainedModel):
    """Base of towers and aligners: every attention that `utils.attention` can have.

    Bare parameters (latents, queries, class tokens, learned positions) start as rows of embedding tables do.
    """

    base_model_prefix = ""
    input_modalities = ()
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        for name, parameter in module.named_parameters(recurse=False):
            if name not in ("weight", "bias"):
                init.normal_(parameter, mean=0.0, std=self.config.initializer_range)
