"""A tower without weights, for features that were computed elsewhere: what goes in comes out."""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput

from ..utils.part_model import PartModel
from ._build import register_tower


class PrecomputedConfig(PreTrainedConfig):
    """
    Args:
        hidden_size: width of the features.
        context_length: rows of an item, those that it lacks being zeros.
    """

    model_type = "precomputed"

    hidden_size: int = 512
    context_length: int = 20


@register_tower
class PrecomputedModel(PartModel):
    config: PrecomputedConfig
    main_input_name = "input_values"
    input_modalities = ("signal",)

    def __init__(self, config: PrecomputedConfig):
        super().__init__(config)
        self.post_init()

    def forward(
        self, input_values: torch.Tensor, return_dict: bool | None = None, **kwargs
    ) -> BaseModelOutput | tuple[torch.Tensor]:
        """`input_values (items, context_length, hidden_size)`, given back."""
        output = BaseModelOutput(last_hidden_state=input_values)
        return output if self.config.return_dict or return_dict else output.to_tuple()
