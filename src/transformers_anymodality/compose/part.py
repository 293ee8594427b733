"""One modality while it is composed: what was asked for, and what has been found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..modalities import MODALITIES, ModalitySpec
from ..utils.registry import did_you_mean


_KEYS = {
    "tower",
    "aligner",
    "num_tokens",
    "processor",
    "select_layer",
    "select_feature",
    "per_frame",
    "token",
    "revision",
}


_FEATURES = ("all", "patches", "pooled")


@dataclass
class Part:
    """One modality while it is composed."""

    name: str
    spec: ModalitySpec
    settings: dict[str, Any]
    options: dict[str, Any]
    tower: Any = None  # a PreTrainedModel, from `add_tower` on
    aligner: Any = None  # an Aligner, from `add_aligner` on
    processor: Any = None
    attribute: str = ""
    row: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)  # sub-processor's name -> tower's argument
    probe: dict[str, torch.Tensor] = field(default_factory=dict)  # what the sub-processor gives for a made-up medium


def borrows(key: str, by_name: dict[str, Part]) -> Callable[[Part], bool]:
    """Whether a modality names another's tower or aligner as its own; lenders are made first."""
    return lambda part: isinstance(part.settings.get(key), str) and part.settings[key] in by_name


def parse(name: str, value: Any, modalities: Mapping[str, Any]) -> Part:
    spec = MODALITIES[name]
    settings = dict(value) if isinstance(value, dict) else {"tower": value}
    if settings.get("tower") is None:
        raise ValueError(f"Modality {name!r} needs a `tower`.")
    options = {key: settings.pop(key, default) for key, default in spec.options.items()}
    if unknown := sorted(set(settings) - _KEYS):
        known = _KEYS | set(options)
        raise ValueError(
            f"Unknown settings {unknown} for modality {name!r}.{did_you_mean(unknown[0], known)} "
            f"Known: {', '.join(sorted(known))}."
        )
    if isinstance(settings["tower"], str) and settings["tower"] in set(MODALITIES) - set(modalities):
        raise ValueError(f"Modality {name!r} borrows the tower of {settings['tower']!r}, which is not being composed.")
    if (feature := settings.get("select_feature")) not in (None, *_FEATURES):
        raise ValueError(f"select_feature of {name!r} is {feature!r}; it can be {', '.join(_FEATURES)}.")
    count = settings.get("num_tokens")
    if count is not None and (not isinstance(count, int) or count < 1):
        raise ValueError(f"num_tokens of {name!r} is {count!r}; it must be a whole number from 1 on.")
    explicit = {key for key in options if isinstance(value, dict) and key in value}
    return Part(name, spec, {**settings, "explicit": explicit}, options)
