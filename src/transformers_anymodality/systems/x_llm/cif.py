"""Continuous integrate-and-fire (CIF): from the frames of a speech encoder to about one feature per spoken token.

Each frame gets a weight between 0 and 1. Weights add up over time. When the sum passes a threshold, a token fires: the
weighted sum of the frames since the last token. After Dong and Xu, "CIF: Continuous Integrate-and-Fire for End-to-End Speech
Recognition" (arXiv 1905.11235). Details follow its public PyTorch implementation, on which X-LLM's speech encoder is built
(arXiv 2305.04160, section 3).
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import ModelOutput

from ...towers import register_tower
from ...utils.part_model import PartModel
from ...utils.upstream import can_return_tuple


# Weights that are scaled to sum to the wanted number of tokens may miss the last threshold by rounding.
_ROUNDING = 1e-4


class CifConfig(PreTrainedConfig):
    """
    Args:
        hidden_size: width of the tokens. If it is not `feature_size`, the width of the frames, a projection without bias
            follows.
        weights: how a frame's weight is found: "conv" over its neighbours, "dense", or "linear" from it alone.
        threshold: accumulated weight at which a token fires. Each token still takes a weight of 1.
        scale_weights: in training, scale an item's weights to sum to its number of target tokens, if that is given.
        tail_threshold: in evaluation, the rest at an item's end also fires if its weight is above this. None: never.
        faithful: two accidents of the public implementation, for comparison with it. First, it needs a padded frame to see
            the end of an item. So the longest item of a batch has no tail, and results depend on the rest of the batch.
            Second, weights that were scaled for n tokens may fire n - 1, because their sum is rounded frame by frame.
    """

    model_type = "cif"

    feature_size: int = 512
    hidden_size: int = 512
    weights: str = "conv"
    conv_width: int = 3
    conv_dropout: float = 0.0
    threshold: float = 0.99
    scale_weights: bool = True
    tail_threshold: float | None = 0.5
    faithful: bool = False
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.weights not in ("conv", "dense", "linear"):
            raise ValueError(f'weights={self.weights!r}; it can be "conv", "dense" or "linear".')
        if self.weights == "conv" and self.conv_width % 2 == 0:
            raise ValueError(f"conv_width={self.conv_width} must be odd, for as many weights as frames.")


@dataclass
class CifOutput(ModelOutput):
    """
    Args:
        last_hidden_state: `(items, most tokens of an item, hidden_size)`, zeros behind an item's own.
        attention_mask: `(items, most tokens)` bool, True where a token fired.
        counts: `(items,)` int64, tokens of each item.
        quantity: `(items,)`, the sum of each item's weights before any scaling: what a quantity loss compares with the
            number of target tokens.
    """

    last_hidden_state: torch.FloatTensor | None = None
    attention_mask: torch.BoolTensor | None = None
    counts: torch.LongTensor | None = None
    quantity: torch.FloatTensor | None = None


@register_tower
class CifModel(PartModel):
    config: CifConfig
    main_input_name = "input_values"
    input_modalities = ("signal",)

    def __init__(self, config: CifConfig):
        super().__init__(config)
        dim = config.feature_size
        if config.weights == "conv":
            self.conv = nn.Conv1d(dim, dim, config.conv_width, padding=config.conv_width // 2)
            self.conv_dropout = nn.Dropout(config.conv_dropout)
        elif config.weights == "dense":
            self.dense = nn.Linear(dim, dim)
        self.weight = nn.Linear(dim, 1)
        if config.hidden_size != dim:
            self.projection = nn.Linear(dim, config.hidden_size, bias=False)
        self.post_init()

    def frame_weights(self, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """`(items, frames)` float32 between 0 and 1, 0 where `mask` is False."""
        states = features
        if self.config.weights == "conv":
            states = self.conv_dropout(self.conv(features.transpose(1, 2)).transpose(1, 2))
        elif self.config.weights == "dense":
            states = self.dense(features).relu()
        return self.weight(states).squeeze(-1).float().sigmoid() * mask

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        target_lengths: torch.Tensor | None = None,
        **kwargs,
    ) -> CifOutput | tuple:
        """
        Args:
            input_values: `(items, frames, feature_size)`.
            attention_mask: `(items, frames)`, non-zero where a frame is real; the real ones come first.
            target_lengths: `(items,)`, target tokens; read in training with `scale_weights` only.
        """
        mask = input_values.new_ones(input_values.shape[:2], dtype=torch.bool)
        mask = mask if attention_mask is None else attention_mask.bool()
        weights = self.frame_weights(input_values, mask)
        quantity = weights.sum(-1)
        if self.training and self.config.scale_weights and target_lengths is not None:
            weights = weights * (target_lengths / quantity.clamp(min=torch.finfo(quantity.dtype).tiny)).unsqueeze(-1)
        shares, counts = self.fire(weights, mask)
        tokens = shares.to(input_values.dtype) @ input_values
        if self.config.hidden_size != self.config.feature_size:
            tokens = self.projection(tokens)
        fired = torch.arange(tokens.shape[1], device=tokens.device) < counts.unsqueeze(-1)
        return CifOutput(last_hidden_state=tokens, attention_mask=fired, counts=counts, quantity=quantity)

    def fire(self, weights: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The share of each frame in each token, `(items, most tokens, frames)`; and tokens per item, `(items,)`.

        A frame fires one token at most. So after frame i, at most one more has fired than after the frame before, and at
        most as many as thresholds were passed: the least of the latter, over all frames j up to i, plus i - j.
        """
        frames, lengths = weights.shape[1], mask.sum(-1)
        place = torch.arange(frames, device=weights.device)
        # In float32, the sum of a long item has too few digits behind the point.
        sums = weights.to(torch.float32 if weights.device.type == "mps" else torch.float64).cumsum(-1)
        with torch.no_grad():
            passed = (sums - self.config.threshold + _ROUNDING).floor().long() + 1
            fired = (passed - place).cummin(-1).values.clamp(max=1) + place
            if self.config.faithful:
                fired = _fired_frame_by_frame(weights, self.config.threshold)
            before = nn.functional.pad(fired, (1, 0))[:, :-1]
            # Scaled weights above 1 may leave a token over: it fires at once behind the item's end, and none after it.
            fires = (fired > before) & (place <= lengths.unsqueeze(-1))
        left = (sums - fired).to(weights.dtype)  # the part of a frame that goes into the next token
        lacked = 1 - nn.functional.pad(left, (1, 0))[:, :-1]
        for_next = torch.where(fires, left, weights).unsqueeze(1)
        for_fired = torch.where(fires, lacked, 0).unsqueeze(1)
        # One more row than can fire, for the rest at the end.
        token = torch.arange(int(fires.sum(-1).max()) + 1, device=weights.device).view(1, -1, 1)
        shares = for_next * (fired.unsqueeze(1) == token) + for_fired * (fired.unsqueeze(1) == token + 1)
        shares, counts = self._tails(shares, fires.sum(-1), lengths)
        shares = shares[:, : int(counts.max())]
        return shares * (token[:, : shares.shape[1]] < counts.view(-1, 1, 1)), counts

    def _tails(
        self, shares: torch.Tensor, counts: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Lets the rest at the end of each item fire if its weight is enough, scaled to weight 1."""
        if self.training or self.config.tail_threshold is None:
            return shares, counts
        token = torch.arange(shares.shape[1], device=shares.device)
        last = (token == counts.unsqueeze(-1)).unsqueeze(-1)
        rest = (shares * last).sum((1, 2))
        enough = rest > self.config.tail_threshold
        if self.config.faithful:
            enough = enough & (lengths < shares.shape[-1])
        scale = torch.where(last, 1 / (rest.view(-1, 1, 1) + 1e-10), 1)
        return shares * scale, counts + enough


def _fired_frame_by_frame(weights: torch.Tensor, threshold: float) -> torch.Tensor:
    """Tokens that fired up to each frame, `(items, frames)` int64, rounded as float32 sums one after another are."""
    left, fired = torch.zeros_like(weights[:, 0]), torch.zeros_like(weights, dtype=torch.long)
    for place, weight in enumerate(weights.unbind(1)):
        fires = left + weight >= threshold
        left = torch.where(fires, weight - (1 - left), left + weight)
        fired[:, place] = fires
    return fired.cumsum(-1)
