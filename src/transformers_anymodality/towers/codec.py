"""Codecs as towers: the encoder, without the quantiser.

A codec gives codes and audio. The values before they are rounded to codes are features, as from any encoder.
"""

from functools import lru_cache, wraps
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


class _Reached(Exception):
    """Raised at the quantiser, so that later layers do not run."""


class _Quantiser(nn.Module):
    """Replaces the quantiser, and keeps its input."""

    def __init__(self):
        super().__init__()
        self.given: list[torch.Tensor] = []

    def encode(self, features: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.given.append(features)  # of one piece, if the audio is encoded in pieces
        return features

    def forward(self, features: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.given.append(features)
        raise _Reached


@lru_cache
def encoding_half(cls: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The class itself; for a codec, a subclass that gives the quantiser's input as `last_hidden_state`."""
    if not (hasattr(cls, "encode") and hasattr(cls, "decode")):
        return cls

    class EncodingHalf(cls):  # ty: ignore[unsupported-base]
        def __init__(self, config: Any):
            super().__init__(config)
            if hasattr(self, "quantizer"):
                self.quantizer = _Quantiser()

        @wraps(cls.forward)
        def forward(self, *args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
            if not hasattr(self, "quantizer"):
                return super().forward(*args, return_dict=return_dict, **kwargs)
            given = self.quantizer.given = []
            try:
                self.encode(*args, **kwargs)
            except _Reached:
                pass
            features = torch.cat(given, -1) if len(given) > 1 else given[0]
            return BaseModelOutput(last_hidden_state=features) if return_dict else (features,)

    EncodingHalf.__name__, EncodingHalf.__module__ = cls.__name__, cls.__module__
    return EncodingHalf
