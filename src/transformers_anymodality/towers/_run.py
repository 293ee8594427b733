"""Running a tower: to its features, and, once, to see which of its weights they depend on."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ._features import LayerOutput, read_features


def run_tower(
    tower: PreTrainedModel,
    arguments: dict[str, torch.Tensor],
    select_layer: int | None = None,
    select_feature: str = "all",
    **recorded: bool,
) -> tuple[torch.Tensor, Any]:
    """`(features (items, length, dim), the tower's own output)`.

    Args:
        arguments: of the tower's forward, one row per item.
        select_layer: not None if the tower was cut; then its last layer's own output is read.
        select_feature: "all", "patches" or "pooled".
        recorded: `output_hidden_states`, `output_attentions`.
    """
    with LayerOutput(tower) if select_layer is not None else nullcontext() as layer:
        output = tower(**arguments, **recorded, return_dict=True)
    return read_features(tower, output if layer is None else layer.value, select_feature), output


def trace_tower(
    tower: PreTrainedModel,
    arguments: dict[str, torch.Tensor],
    select_layer: int | None = None,
    select_feature: str = "all",
) -> tuple[torch.Tensor, set[str]]:
    """The features, as `run_tower` gives them, and the names of the weights that they do not depend on.

    The graph of the forward pass leads back to those that they do; where there is none, all count as read. A tower without
    data can be asked, too.
    """
    weights = {name: p for name, p in tower.named_parameters() if p.is_floating_point()}
    trained = {name: p.requires_grad for name, p in weights.items()}
    try:
        for parameter in weights.values():
            parameter.requires_grad_(True)
        with torch.enable_grad():
            features = run_tower(tower, arguments, select_layer, select_feature)[0]
    finally:
        for name, parameter in weights.items():
            parameter.requires_grad_(trained[name])
    read = _leaves(features)
    return features.detach(), {name for name, p in weights.items() if read and id(p) not in read}


def _leaves(features: torch.Tensor) -> set[int]:
    """Ids of the parameters that a tensor was computed from."""
    nodes, seen, leaves = [features.grad_fn], {None}, set()
    while nodes:
        if (node := nodes.pop()) not in seen:
            seen.add(node)
            leaves.add(id(getattr(node, "variable", None)))
            nodes += [following for following, _ in node.next_functions]
    return leaves - {id(None)}


def outermost(tower: nn.Module, unread: set[str]) -> list[str]:
    """The outermost modules all of whose weights are among `unread`, and unread parameters of modules that are read."""
    found: list[str] = []
    for name, module in tower.named_modules():
        own = {f"{name}.{child}" for child, _ in module.named_parameters()}
        if name and own and own <= unread and not name.startswith(tuple(f"{outer}." for outer in found)):
            found.append(name)
    covered = tuple(f"{outer}." for outer in found)
    return sorted([*found, *(name for name in unread if not name.startswith(covered))])


class Unread(nn.Module):
    """Stands where a module was whose output nobody reads; hands its input on."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if args else next(iter(kwargs.values()))


def drop_unread(tower: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Takes unread modules (poolers, final norms) out of a tower, in place; of `names`, single parameters are only frozen.

    Weights that never get a gradient stop distributed training, and nobody misses them. Returns what was taken out, for
    `put_back`.
    """
    parameters, taken = dict(tower.named_parameters()), {}
    for name in names:
        if name in parameters:
            parameters[name].requires_grad_(False)
        else:
            taken[name] = tower.get_submodule(name)
            put_back(tower, {name: Unread()})
    return taken


def put_back(tower: nn.Module, modules: dict[str, nn.Module]) -> None:
    for name, module in modules.items():
        owner, _, child = name.rpartition(".")
        setattr(tower.get_submodule(owner), child, module)
