"""IMU2CLIP: either encoder step by step, and the loss of its training."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from modeling_tests.parity.recordings import Recording, watch
from transformers_anymodality.towers.imu2clip import Imu2ClipModel


@torch.no_grad()
def replay(model: Any, recording: Recording) -> Iterator[tuple[str, torch.Tensor]]:
    imu = recording.inputs["imu"]
    if not isinstance(model, Imu2ClipModel):
        output = model(imu)
        yield "patch_transformer.tokens", output.last_hidden_state
        yield "patch_transformer.embedding", output.pooler_output
        return
    model.config.context_length = imu.shape[-1]  # which no file of the original need say
    stages = (model.input_norm, *model.blocks, model.norm)
    with watch(**{f"stage.{number}": stage for number, stage in enumerate(stages)}) as seen:
        output = model(imu)
    yield from ((name, call.output) for name, call in seen.items())
    yield "gru_outputs", output.last_hidden_state
    yield "embedding", output.pooler_output
    if "keys" in recording.inputs:
        yield "infonce", _loss(output.pooler_output, recording.inputs["keys"])


def _loss(embeddings: torch.Tensor, keys: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    """InfoNCE in both directions, added: each embedding should be most like its own key, and the other way round."""
    embeddings, keys = (nn.functional.normalize(value, dim=-1) for value in (embeddings, keys))
    likeness, own = embeddings @ keys.T / temperature, torch.arange(len(keys))
    return nn.functional.cross_entropy(likeness, own) + nn.functional.cross_entropy(likeness.T, own)
