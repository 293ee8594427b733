"""Comparing a converted model with what the original gave: recorded inputs and outputs beside a release."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM

from ._base import Conversion
from ._release import Release


@dataclass(frozen=True)
class Comparison:
    """One recorded tensor.

    Args:
        name: as it is recorded.
        largest: largest absolute difference to ours; None where it was not compared.
        relative: that, relative to the largest recorded value.
        argmax: share of rows whose greatest entry is the same; None for tensors that are no logits.
        reason: why it was not compared.
    """

    name: str
    largest: float | None = None
    relative: float | None = None
    argmax: float | None = None
    reason: str = ""


def compare(conversion: Conversion, release: Release, output: Path) -> list[Comparison]:
    """Comparisons with the recordings beside a release; none if there are none."""
    files = [release.folder / f"{name}.safetensors" for name in ("inputs", "outputs")]
    if conversion.replay is None or not all(file.is_file() for file in files):
        return []
    inputs, outputs = (load_file(file) for file in files)
    model, done = load_converted(output), {}
    for name, ours in conversion.replay(model, release.config, inputs):
        if name in outputs:
            done[name] = difference(name, ours, outputs[name])
    return [done.get(name) or Comparison(name, reason=reason_for(conversion, name)) for name in sorted(outputs)]


def load_converted(output: Path) -> Any:
    """The converted model in float32, with its adapter if it has one."""
    config = AutoModel if not (output / "generation_config.json").is_file() else AutoModelForCausalLM
    model = config.from_pretrained(output, dtype=torch.float32).eval()
    if (output / "adapter").is_dir():
        model.load_adapter(str(output / "adapter"))
    return model


def reason_for(conversion: Conversion, name: str) -> str:
    """Why a recorded tensor is not compared; empty if no one says."""
    found = (reason for pattern, reason in conversion.not_compared.items() if re.fullmatch(pattern, name))
    return next(found, "")


def difference(name: str, ours: torch.Tensor, theirs: torch.Tensor) -> Comparison:
    ours = as_long(name, ours, theirs)
    if ours.shape != theirs.shape:
        raise ValueError(f"{name}: ours has shape {tuple(ours.shape)}, the recording {tuple(theirs.shape)}.")
    if not theirs.numel():
        return Comparison(name, 0.0, 0.0)
    largest = (ours.double() - theirs.double()).abs().max().item()
    logits = theirs.ndim > 1 and "logits" in name
    argmax = (ours.argmax(-1) == theirs.argmax(-1)).double().mean().item() if logits else None
    return Comparison(name, largest, largest / max(theirs.double().abs().max().item(), 1e-30), argmax)


def as_long(name: str, ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Of greedy answers, as many tokens as are recorded."""
    return ours[..., : theirs.shape[-1]] if "greedy" in name else ours
