"""Runs any tower: finds its inputs, its features, and the weights that the features depend on."""

import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..utils.hooks import StandingHook, standing_hook


_SEQUENCES = ("last_hidden_state", "encoder_last_hidden_state", "feature_maps", "hidden_states", "latents")
_POOLED = ("pooler_output", "image_embeds", "audio_embeds", "text_embeds", "embeddings")
# Names of the padding mask: 1 where an item is real, 0 where there is padding.
MASKS = ("attention_mask", "input_features_mask", "padding_mask")
_SIZES = ("hidden_size", "d_model", "embed_dim", "num_features", "hidden_dim", "projection_dim")


def compute_dtype(module: nn.Module) -> torch.dtype:
    """The dtype that a module computes in: the dtype of its first floating-point parameter."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.get_default_dtype())


def is_trained(module: nn.Module) -> bool:
    """Whether any of its weights gets a gradient."""
    return any(parameter.requires_grad for parameter in module.parameters())


def main_input(tower: PreTrainedModel) -> str:
    """The argument of a tower's forward that takes the medium; many towers do not name it."""
    accepted = inspect.signature(tower.forward).parameters
    return tower.main_input_name if tower.main_input_name in accepted else next(iter(accepted))


def check_main_input(tower: PreTrainedModel) -> None:
    """Raises ValueError if the tower's class names a main input that its forward does not take. (A name that it inherits
    says nothing: Transformers' base classes name that of the full model.)"""
    named, accepted = vars(type(tower)).get("main_input_name"), inspect.signature(tower.forward).parameters
    if isinstance(named, str) and named not in accepted:
        raise ValueError(
            f"`main_input_name` of {type(tower).__name__} is {named!r}, but its forward takes {', '.join(accepted)}: name "
            "the argument that gets the medium."
        )


def required_arguments(tower: PreTrainedModel) -> set[str]:
    """The required arguments of a tower's forward."""
    parameters = inspect.signature(tower.forward).parameters.values()
    return {one.name for one in parameters if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD}


def match_arguments(tower: PreTrainedModel, outputs: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Output of the sub-processor -> the argument of the tower's forward that takes it; the main input comes first."""
    accepted, main = inspect.signature(tower.forward).parameters, main_input(tower)
    source = main if main in outputs else next((name for name in outputs if "mask" not in name), None)
    if source is None:
        given = ", ".join(outputs) or "nothing"
        raise ValueError(f"{type(tower).__name__} takes {main!r}, but its processor gives {given}.")
    others = {name: name for name in outputs if name in accepted and name not in (source, main)}
    for name in outputs.keys() - {source, *others}:  # the first word is the modality: `image_grid_thw` is `grid_thw`
        short, free = name.partition("_")[2], [one for one in accepted if one not in (main, *others.values())]
        alike = [one for one in required_arguments(tower) if one.partition("_")[2] == short]
        if found := next((one for one in (short, *alike) if one in free), None):
            others[name] = found
    given, taken = ([name for name in MASKS if name in names] for names in (outputs, accepted))
    taken = taken or [name for name in required_arguments(tower) if "mask" in name]
    if len(given) == len(taken) == 1:
        others[given[0]] = taken[0]
    return {source: main, **others}


def run_tower(
    tower: PreTrainedModel,
    arguments: dict[str, torch.Tensor],
    select_layer: int | None = None,
    select_feature: str = "all",
    packed: bool = False,
    channels_first: bool | None = None,
    **recorded: bool,
) -> tuple[torch.Tensor, Any]:
    """`(features, the tower's own output)`; features are `(items, length, dim)`, or `(all features, dim)` if `packed`.

    Args:
        arguments: of the tower's forward, one row per item.
        select_layer: not None if the tower was cut; then its last layer's own output is read.
        select_feature: "all", "patches", "pooled" or "merged".
        packed: the tower gives the features of all items as one row.
        channels_first: it gives `(items, dim, length)`; None: judged by the sizes.
        recorded: `output_hidden_states`, `output_attentions`.
    """
    if select_layer is None:
        output = tower(**arguments, **recorded, return_dict=True)
        return read_features(tower, output, select_feature, packed, channels_first), output
    # The output of the last layer, before any final norm: `hidden_states[k]` of a full tower is not normed, but the
    # output of a tower cut to `k` layers is.
    caught: list[Any] = []
    with watch_last_layer(tower).doing(caught.append):
        output = tower(**arguments, **recorded, return_dict=True)
    if not caught:
        raise RuntimeError("The tower did not run its last layer.")
    features = caught[-1][0] if isinstance(caught[-1], (tuple, list)) else caught[-1]
    return read_features(tower, features, select_feature, packed, channels_first), output


def watch_last_layer(tower: nn.Module) -> StandingHook:
    """The hook on a tower's last layer, whose output `select_layer` reads."""
    if getattr(tower, "last_layer_hook", None) is None:
        tower.last_layer_hook = standing_hook(_layer_stack(tower)[-1])
    return tower.last_layer_hook


def read_features(
    tower: PreTrainedModel,
    output: Any,
    select: str = "all",
    packed: bool = False,
    channels_first: bool | None = None,
) -> torch.Tensor:
    """The features `(items, length, dim)`: patch tokens, frames, a pooled vector, maps, also with extra patch axes. If
    `packed`, `(all features, dim)`.

    Args:
        tower: its config tells channels from space in maps, and class tokens from patches.
        output: what the tower returned (a `ModelOutput`, or a layer's tensor).
        select: "all" features, "patches" (without leading class and register tokens), "pooled", or "merged" (neighbouring
            patches merged, by a tower that reads patches as one row).
    """
    if packed and select == "merged":
        features, before = _field(output, _POOLED), _field(output, _SEQUENCES + _POOLED)
        return features.flatten(1) if features.ndim > before.ndim else features.flatten(0, -2)
    if packed:
        return _field(output, _SEQUENCES + _POOLED).flatten(0, -2)
    if select == "pooled":
        return _field(output, _POOLED).flatten(1).unsqueeze(1)
    features, sizes = _field(output, _SEQUENCES + _POOLED), _widths(tower)
    if features.ndim == 2:
        features = features.unsqueeze(1)
    elif features.ndim > 2 and (_channels_first(features.shape, sizes) if channels_first is None else channels_first):
        features = features.movedim(1, -1)
    if features.ndim < 3:
        raise ValueError(f"The tower's output of shape {tuple(features.shape)} has no features per item.")
    grid = _grid(tower.config)
    if select == "patches" and features.ndim == 4 and grid is not None and features.shape[2] >= grid:
        features = features[:, :, features.shape[2] - grid :]  # of each clip, (items, clips, length, dim)
        return features.flatten(1, 2)
    features = features.flatten(1, -2)
    return features[:, _prefix_tokens(tower, features.shape[1]) :] if select == "patches" else features


def _widths(tower: PreTrainedModel) -> set[int]:
    """The widths that a tower's features may have, by its config (several if the config is not clear)."""
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


def _channels_first(shape: torch.Size, sizes: set[int]) -> bool:
    """Whether features have their channels first, `(items, dim, ...)`, judged by the widths in the config."""
    # A list: a dynamic size of torch.export has no hash.
    first, last = shape[1] in [*sizes], shape[-1] in [*sizes]
    if first != last or len(shape) != 4:
        return first and not last
    # The config does not give the map's width, or width and channels are equal. Most maps are square; most others
    # come from convolutions.
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
    return math.prod([i // p for i, p in zip(image, patch, strict=False)])


def _layer_stack(tower: nn.Module) -> nn.Module:
    """The stack of layers: the largest list of modules of one class with as many modules as the config says."""
    config = tower.config
    count = getattr(config, "num_hidden_layers", None)
    stacks = [
        module
        for module in tower.modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module) and len({type(m) for m in module}) == 1
    ]
    recorded = (getattr(tower, "_can_record_outputs", None) or {}).get("hidden_states")
    layer = getattr(recorded, "target_class", recorded)  # the layer's class, if Transformers knows it
    stacks = [stack for stack in stacks if isinstance(layer, type) and isinstance(stack[0], layer)] or stacks
    exact = [stack for stack in stacks if len(stack) == count]
    if not (exact or stacks):
        raise ValueError(f"{type(tower).__name__} has no stack of layers to select from.")
    return max(exact or stacks, key=lambda stack: sum(p.numel() for p in stack.parameters()))


def trace_tower(
    tower: PreTrainedModel,
    arguments: dict[str, torch.Tensor],
    *reading: Any,
) -> tuple[torch.Tensor, set[str]]:
    """The features, as `run_tower` gives them (`reading` are its arguments), and the names of weights that do not affect
    them.

    The autograd graph shows which weights are read; without a graph, all count as read. The tower may be on meta.
    """
    weights = {name: p for name, p in tower.named_parameters() if p.is_floating_point()}
    trained = {name: p.requires_grad for name, p in weights.items()}
    try:
        for parameter in weights.values():
            parameter.requires_grad_(True)
        with torch.enable_grad():
            features = run_tower(tower, arguments, *reading)[0]
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
    """The outermost modules with only `unread` weights, and the unread parameters of other modules."""
    found: list[str] = []
    for name, module in tower.named_modules():
        own = {f"{name}.{child}" for child, _ in module.named_parameters()}
        if name and own and own <= unread and not name.startswith(tuple(f"{outer}." for outer in found)):
            found.append(name)
    covered = tuple(f"{outer}." for outer in found)
    return sorted([*found, *(name for name in unread if not name.startswith(covered))])


class Unread(nn.Module):
    """Replaces a module whose output is not read; returns its input."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if args else next(iter(kwargs.values()))


def drop_unread(tower: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Takes unread modules (poolers, final norms) out of a tower, in place; single parameters in `names` are only frozen.

    Weights that never get a gradient stop distributed training. Returns the removed modules, for `put_back`.
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
