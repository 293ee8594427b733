"""Perceiver resamplers: what comes out, and what the first layer's attention gives.

A recording holds several of them, each with names of its own for its inputs: `replay` is told which it is.
"""

import re
from collections.abc import Iterator
from typing import Any

import torch

from modeling_tests.parity.recordings import Recording, watch


@torch.no_grad()
def replay(model: Any, recording: Recording, kind: str = "fp") -> Iterator[tuple[str, torch.Tensor]]:
    """`kind`: "fp", "of0", "of1", ... or "idefics"; with 3 axes, features are those of one medium."""
    for name, features in recording.inputs.items():
        if not (found := re.fullmatch(rf"{kind}\.x(\d*)", name)):
            continue
        with watch(attention=model.layers[0].attention) as seen:
            tokens = model(features.unsqueeze(1) if features.ndim == 3 else features)
        yield f"{kind}.y{found[1]}", tokens
        # The original's name has the input's, where one resampler was given several.
        yield f"{name}.attn0" if found[1] else f"{kind}.attn0", seen["attention"].output
