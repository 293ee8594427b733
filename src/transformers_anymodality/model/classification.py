"""The composite with a score head: a reward model or a classifier of chats with media."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from ..utils.upstream import can_return_tuple
from .configuration import AnyModalityConfig
from .modeling import AnyModalityModel


class AnyModalityForSequenceClassification(AnyModalityModel):
    """Scores rows by the hidden state of the last token that is not padding; a reward model with `num_labels=1`.

    Also reads checkpoints of the causal composite, which have no `score`: it is then initialised at random. A checkpoint of
    this class without it is an error.
    """

    def __init__(self, config: AnyModalityConfig, parts: dict[str, PreTrainedModel] | None = None):
        super().__init__(config, parts)
        if config.architectures not in (None, [type(self).__name__]):
            self._keys_to_ignore_on_load_missing = {*(self._keys_to_ignore_on_load_missing or ()), "score.weight"}
        self.score = nn.Linear(config.get_text_config().hidden_size, config.num_labels or 1, bias=False)
        nn.init.normal_(self.score.weight, std=getattr(config.get_text_config(), "initializer_range", 0.02))

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> SequenceClassifierOutput | tuple:
        """As `AnyModalityModel.forward`, with scores.

        Args:
            attention_mask: `(batch, sequence)`; padding may be on either side.
            labels: `(batch,)`: classes, int64, or with one label, values.

        Returns:
            `logits` `(batch, num_labels)`, and `loss` if labels are given.
        """
        states = super().forward(input_ids, attention_mask, **kwargs).last_hidden_state
        last = torch.full((len(states),), states.shape[1] - 1, device=states.device)
        if attention_mask is not None:
            places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
            last = (attention_mask * places).argmax(-1).to(states.device)
        logits = self.score(states[torch.arange(len(states), device=states.device), last])
        loss = None
        if labels is not None:
            one = self.config.num_labels == 1
            compare = nn.functional.mse_loss if one else nn.functional.cross_entropy
            loss = compare(logits.float().squeeze(-1) if one else logits.float(), labels.to(logits.device))
        return SequenceClassifierOutput(loss=loss, logits=logits)
