"""A tower without weights, for features that were computed elsewhere: it returns its input."""

import torch
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput

from ..utils.part_model import PartModel
from ..utils.upstream import can_return_tuple
from ._build import register_tower


class PrecomputedConfig(PreTrainedConfig):
    """
    Args:
        hidden_size: width of the features.
        context_length: rows of an item; missing rows are zeros.
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

    @can_return_tuple
    def forward(self, input_values: torch.Tensor, **kwargs) -> BaseModelOutput:
        """Returns `input_values (items, context_length, hidden_size)`."""
        return BaseModelOutput(last_hidden_state=input_values)
