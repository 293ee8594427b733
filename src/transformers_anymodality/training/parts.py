"""Parts of a model in training: their table, freezing, learning rates, activation checkpointing."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import nn

from anymodality.plain.tables import columns

from ..model.modeling import AnyModalityPreTrainedModel
from ..utils.registry import did_you_mean
from ..utils.upstream import set_checkpointing


_GROUPS = {"aligners": "_aligner", "towers": "_tower"}


def parts_table(model: nn.Module) -> str:
    """One line per part: its name, parameters, how many of them are trained, dtype."""
    lines = [("part", "parameters", "trainable", "dtype")]
    for name, part in composite_of(model).named_children():
        parameters = list(part.parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in parameters})
        lines.append((name, f"{sum(p.numel() for p in parameters):,}", f"{trained:,}", ", ".join(dtypes)))
    return "\n".join(columns(lines, right={1, 2}))


def set_trainable(model: nn.Module, parts: str | Iterable[str], *, verbose: bool = True) -> str:
    """Makes the named parts trainable and freezes all others. Returns their table (`parts_table`), printed if `verbose`.

    Args:
        parts: "aligners", "towers", "language_model", "all", names of children ("image_tower") or of modules in them
            ("image_aligner.projection"), or several of these. Modules that aligners share are trained if one of them is.
    """
    composite = composite_of(model)
    wanted = _checked_parts(composite, parts)
    trained = set()
    for name, parameter in composite.named_parameters(remove_duplicate=False):
        child, _, key = name.partition(".")
        unread = getattr(composite.config.modalities.get(child.removesuffix("_tower")), "unread", ())
        # Gradients do not reach quantised weights, which are integers, or unread ones.
        if _covering(name, wanted) and parameter.is_floating_point() and key not in unread:
            trained.add(parameter)
    for parameter in composite.parameters():
        parameter.requires_grad_(parameter in trained)
    composite.train(composite.training)
    composite.config.note_trained(
        name for name, part in composite.named_children() if trained.intersection(part.parameters())
    )
    table = parts_table(composite)
    if verbose:
        print(table)
    return table


def parameter_groups(
    model: nn.Module, learning_rates: Mapping[str, float], weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """The trainable parameters in groups for an optimizer: learning rates per part, norms and biases without weight decay.

    The stock Trainer uses them with the optimizer in its arguments, also under DDP, FSDP2 and DeepSpeed:

        optimizer, settings = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
        settings["params"] = parameter_groups(model, {"aligners": 1e-3}, arguments.weight_decay)
        Trainer(model, arguments, ..., optimizer_cls_and_kwargs=(optimizer, settings))

    Args:
        learning_rates: part, named as in `set_trainable`, -> its learning rate. The most precise name counts; other
            parameters have the optimizer's own. A schedule scales all of them by the same factor.
        weight_decay: for all but norms and biases, as in the Trainer.

    Raises:
        ValueError: a name is unknown, or none of its parameters is trained.
    """
    from transformers import Trainer  # slow to import

    composite = composite_of(model)
    _checked_parts(composite, learning_rates)
    decayed = set(Trainer.get_decay_parameter_names(None, composite))  # it does not use `self`
    groups: dict[tuple[str | None, bool], list[nn.Parameter]] = {}
    for name, parameter in composite.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((_covering(name, learning_rates), name in decayed), []).append(parameter)
    if idle := sorted(set(learning_rates) - {part for part, _ in groups}):
        raise ValueError(f"Learning rates are given for {', '.join(idle)}, but these are frozen: see set_trainable.")
    return [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0}
        | ({} if part is None else {"lr": float(learning_rates[part])})
        for (part, decays), parameters in groups.items()
    ]


def _covering(parameter: str, parts: Collection[str]) -> str | None:
    """The most precise name that covers a parameter: its own, a module around it, a group, or "all"."""
    path = parameter.split(".")
    around = [".".join(path[:length]) for length in range(len(path), 0, -1)]
    groups = [group for group, ending in _GROUPS.items() if path[0].endswith(ending)]
    return next((name for name in (*around, *groups, "all") if name in parts), None)


def _checked_parts(composite: nn.Module, parts: str | Iterable[str], whole: bool = False) -> set[str]:
    """Names of parts. Raises ValueError for unknown ones; modules within parts count, unless they must be `whole`."""
    wanted = {parts} if isinstance(parts, str) else set(parts)
    known = {*dict(composite.named_children()), *_GROUPS, "all"}
    inside: set[str] = set()
    if not whole:
        inside |= {name for name, _ in composite.named_modules(remove_duplicate=False)}
        inside |= {name for name, _ in composite.named_parameters(remove_duplicate=False)}
    if unknown := sorted(wanted - known - inside):
        near = did_you_mean(unknown[0], inside if "." in unknown[0] else known)
        raise ValueError(f"Unknown parts {unknown}.{near} Known: {', '.join(sorted(known))}.")
    return wanted


def checkpoint_activations(model: nn.Module, parts: str | Iterable[str], **kwargs) -> None:
    """Does not keep activations of the named parts: the backward pass computes them again, which takes a third more time
    there. Gradients are the same.

    A frozen tower never keeps any. The Trainer's `activation_checkpointing` covers all parts at once.

    Args:
        parts: "aligners", "towers", "language_model", "all", or names of children ("image_tower"); other parts keep
            theirs. In a group, parts that cannot do so are left as they are.
        kwargs: of `PreTrainedModel.activation_checkpointing_enable` (`every_n_layers`, `offload`).

    Raises:
        ValueError: a name is unknown, or its part cannot do so.
    """
    composite = composite_of(model)
    children = dict(composite.named_children())
    wanted = _checked_parts(composite, parts, whole=True)
    if unable := sorted(name for name in wanted & set(children) if not children[name].supports_gradient_checkpointing):
        raise ValueError(f"{', '.join(unable)} ({type(children[unable[0]]).__name__}) cannot recompute activations.")
    for name, part in children.items():
        if part.supports_gradient_checkpointing:
            enabled = _covering(name, wanted) is not None
            set_checkpointing(part, enabled, **(kwargs if enabled else {}))


def composite_of(model: nn.Module) -> AnyModalityPreTrainedModel:
    """The composite itself, also inside PEFT or a distributed wrapper."""
    for module in model.modules():
        if isinstance(module, AnyModalityPreTrainedModel):
            return module
    raise TypeError(f"{type(model).__name__} is not a transformers-anymodality model, and does not contain one.")
