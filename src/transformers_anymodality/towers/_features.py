"""Where a tower's features are, whatever it is: patch tokens, frames, a pooled vector, maps, extra patch axes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel


_SEQUENCES = ("last_hidden_state", "encoder_last_hidden_state", "feature_maps", "hidden_states", "latents")
_POOLED = ("pooler_output", "image_embeds", "audio_embeds", "text_embeds", "embeddings")
# Names of one thing: 1 where an item is real, 0 where there is padding.
_MASKS = ("attention_mask", "input_features_mask", "padding_mask")
_SIZES = ("hidden_size", "d_model", "embed_dim", "num_features", "hidden_dim", "projection_dim")


def main_input(tower: PreTrainedModel) -> str:
    """The argument of a tower's forward that takes the medium; many towers do not tell."""
    accepted = inspect.signature(tower.forward).parameters
    return tower.main_input_name if tower.main_input_name in accepted else next(iter(accepted))


def match_arguments(tower: PreTrainedModel, outputs: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Which of a sub-processor's outputs a tower's forward takes, by which argument; the main input first."""
    accepted, main = inspect.signature(tower.forward).parameters, main_input(tower)
    source = main if main in outputs else next((name for name in outputs if "mask" not in name), None)
    if source is None:
        given = ", ".join(outputs) or "nothing"
        raise ValueError(f"{type(tower).__name__} takes {main!r}, but its processor gives {given}.")
    others = {name: name for name in outputs if name in accepted and name not in (source, main)}
    given, taken = ([name for name in _MASKS if name in names] for names in (outputs, accepted))
    if len(given) == len(taken) == 1:
        others[given[0]] = taken[0]
    return {source: main, **others}


def _widths(tower: PreTrainedModel) -> set[int]:
    """The widths that a tower's features may have, by its config (several where a config is not clear)."""
    config, sizes = tower.config, set()
    for name in _SIZES:
        if isinstance(value := getattr(config, name, None), int):
            sizes.add(value)
    for name in ("hidden_sizes", "embed_dims", "encoder_hidden_sizes", "neck_hidden_sizes"):
        if isinstance(value := getattr(config, name, None), (list, tuple)) and value:
            sizes.add(value[-1])
    if isinstance(value := getattr(getattr(tower, "timm_model", None), "num_features", None), int):
        sizes = {value}
    return sizes


def read_features(tower: PreTrainedModel, output: Any, select: str = "all") -> torch.Tensor:
    """The features in a tower's output.

    Args:
        tower: whose config tells channels from space in maps, and class tokens from patches.
        output: what the tower returned (a `ModelOutput`, or a layer's tensor).
        select: "all" features, "patches" (without leading class and register tokens) or "pooled".

    Returns:
        `(items, length, dim)`.
    """
    if select == "pooled":
        return _field(output, _POOLED).flatten(1).unsqueeze(1)
    features, sizes = _field(output, _SEQUENCES + _POOLED), _widths(tower)
    if features.ndim == 2:
        features = features.unsqueeze(1)
    elif features.ndim > 2 and _channels_first(features.shape, sizes):
        features = features.movedim(1, -1)
    if features.ndim < 3:
        raise ValueError(f"The tower's output of shape {tuple(features.shape)} has no features per item.")
    grid = _grid(tower.config)
    if select == "patches" and features.ndim == 4 and grid is not None and features.shape[2] >= grid:
        features = features[:, :, features.shape[2] - grid :]  # of each clip, (items, clips, length, dim)
        return features.flatten(1, 2)
    features = features.flatten(1, -2)
    return features[:, _prefix_tokens(tower, features.shape[1]) :] if select == "patches" else features


def _channels_first(shape: torch.Size, sizes: set[int]) -> bool:
    """Whether features `(items, dim, ...)` have their channels in front, by the widths that a config tells."""
    first, last = shape[1] in sizes, shape[-1] in sizes
    if first != last or len(shape) != 4:
        return first and not last
    # A map whose width no config tells, or that is as wide as it has channels: maps are mostly square, and of
    # those that are not most are convolutions'.
    return shape[2] == shape[3] or shape[1] != shape[2]


def _field(output: Any, names: tuple[str, ...]) -> torch.Tensor:
    if isinstance(output, torch.Tensor):
        return output
    for name in names:
        value = getattr(output, name, None)
        if isinstance(value, (list, tuple)) and value:
            value = value[-1]
        if isinstance(value, torch.Tensor):
            return value
    found = ", ".join(output.keys()) if hasattr(output, "keys") else type(output).__name__
    raise ValueError(f"No features found in the tower's output ({found}); looked for {', '.join(names)}.")


def _prefix_tokens(tower: PreTrainedModel, length: int) -> int:
    """Leading class and register tokens among `length` features of an image tower."""
    if isinstance(count := getattr(getattr(tower, "timm_model", None), "num_prefix_tokens", None), int):
        return count
    grid = _grid(tower.config)
    if grid is None or length < grid:
        raise ValueError(
            f'select_feature="patches" needs a tower whose config tells image_size and patch_size; {length} features of '
            f"{tower.config.model_type!r} do not fit a grid of {grid}."
        )
    return length - grid


def _grid(config: PreTrainedConfig) -> int | None:
    image, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    if image is None or patch is None:
        return None
    image, patch = (tuple(x) if isinstance(x, (list, tuple)) else (x, x) for x in (image, patch))
    return math.prod(i // p for i, p in zip(image, patch, strict=False))


class LayerOutput:
    """Catches what the last layer of a cut tower gives, in front of any final norm.

    `hidden_states[k]` of a whole tower is not normed, while the output of a tower cut to `k` layers is: reading the
    layer itself keeps the two equal.
    """

    def __init__(self, tower: nn.Module):
        layers = _layer_stack(tower)
        self._value: torch.Tensor | None = None
        self._handle = layers[-1].register_forward_hook(self._catch)

    def _catch(self, module: nn.Module, args: tuple, output: Any) -> None:
        self._value = output[0] if isinstance(output, (tuple, list)) else output

    def __enter__(self) -> LayerOutput:
        return self

    def __exit__(self, *exc) -> None:
        self._handle.remove()

    @property
    def value(self) -> torch.Tensor:
        if self._value is None:
            raise RuntimeError("The tower did not run its last layer.")
        return self._value


def _layer_stack(tower: nn.Module) -> nn.Module:
    """The module list or sequence that is the stack of layers: of one kind, as many as the config says, the largest."""
    config = tower.config
    count = getattr(config, "num_hidden_layers", None)
    stacks = [
        module
        for module in tower.modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module) and len({type(m) for m in module}) == 1
    ]
    exact = [stack for stack in stacks if len(stack) == count]
    if not (exact or stacks):
        raise ValueError(f"{type(tower).__name__} has no stack of layers to select from.")
    return max(exact or stacks, key=lambda stack: sum(p.numel() for p in stack.parameters()))
