"""A LoRA config for the language model only, and only for layers whose adapters learn."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ..model.classification import AnyModalityForSequenceClassification
from ..utils.tensors import in_mode
from .parts import composite_of


_INSIDE = r"(?=(.*\.)?language_model\.)(.*\.)?({})"


def lora_config(
    model: nn.Module,
    r: int = 16,
    *,
    lora_alpha: int | None = None,
    target_modules: str | Iterable[str] | None = None,
    **kwargs,
) -> Any:
    """A stock `peft.LoraConfig`: LoRA on the language model's linear layers. Aligners, and the score head of a classifier
    or reward model, are trained and saved in full.

    Args:
        model: a composite, also one that PEFT has wrapped: the config is the same.
        r, lora_alpha: rank and scale (twice the rank if left out).
        target_modules: names of the language model's layers (["q_proj", "v_proj"], or one as a string), or a regular
            expression for names or their ends. None or "all-linear": all but the head and layers whose adapters would
            learn nothing. One forward and backward pass over a few tokens finds these.
        kwargs: any other field of `LoraConfig`, except `layers_to_transform`, which PEFT refuses together with a pattern.
            Put the layers into the pattern: `target_modules="layers[.](0|1)[.].*_proj"`.

    Raises:
        ValueError: the language model has no layer of one of these names.
    """
    from peft import LoraConfig

    composite = composite_of(model)
    language = composite.language_model
    wanted = _linear_names(language) if target_modules in (None, "all-linear") else target_modules
    choices = [wanted] if isinstance(wanted, str) else [re.escape(name) for name in sorted(wanted)]
    names = [f"language_model.{name}" for name, _, _ in _layers(language)]
    idle = [one for one in choices if not any(re.fullmatch(_INSIDE.format(one), name) for name in names)]
    if idle or not choices:
        raise ValueError(
            f"target_modules: {', '.join(map(repr, idle)) or 'an empty list'} fits no layer of the language model "
            f"({type(language).__name__}). For layers of other parts, use `peft.LoraConfig` itself."
        )
    pattern = _INSIDE.format("|".join(choices))
    scores = isinstance(composite, AnyModalityForSequenceClassification)
    settings = {
        "task_type": "SEQ_CLS" if scores else "CAUSAL_LM" if composite.can_generate() else "FEATURE_EXTRACTION",
        "modules_to_save": [name for name, _ in composite.named_children() if name.endswith("_aligner")],
        **kwargs,
    }
    return LoraConfig(r=r, lora_alpha=2 * r if lora_alpha is None else lora_alpha, target_modules=pattern, **settings)


def _layers(
    module: nn.Module, prefix: str = "", seen: set[nn.Module] | None = None
) -> Iterator[tuple[str, nn.Module, nn.Module]]:
    """Name, module, and module without PEFT's wrapper, of every module inside, named as if there were no adapters."""
    seen = set() if seen is None else seen
    for name, child in module.named_children():
        if child in seen:
            continue
        seen.add(child)
        bare = child
        while wrapped := {"base_layer", "original_module"}.intersection(dict(bare.named_children())):
            bare = bare.get_submodule(wrapped.pop())
        yield prefix + name, child, bare
        yield from _layers(bare, f"{prefix}{name}.", seen)


def _linear_names(language: nn.Module) -> set[str]:
    """Names of the linear layers whose adapters learn, without the head, shortened as far as they stay unambiguous."""
    head = language.get_output_embeddings()
    modules = {name: (module, bare) for name, module, bare in _layers(language)}
    linear = {name: one for name, (one, bare) in modules.items() if one is not head and _is_linear(bare)}
    # A pass does not reach every expert: one expert of a layer stands for all of them.
    learning = {_kind(name) for name in _reached(language, linear)}
    linear = [f".{name}" for name in linear if _kind(name) in learning]
    others = [f".{name}" for name in modules if f".{name}" not in set(linear)]
    names = set()
    for name in linear:
        parts = name.split(".")
        suffixes = (".".join(parts[-count:]) for count in range(1, len(parts)) if not parts[-count].isdigit())
        names.add(next((s for s in suffixes if not any(other.endswith(f".{s}") for other in others)), name[1:]))
    if not names:
        raise ValueError(f"{type(language).__name__} has no linear layers for LoRA; pass target_modules.")
    return names


def _kind(name: str) -> str:
    """A layer's name without numbers, except the first, which is the number of its block."""
    parts = name.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(part for i, part in enumerate(parts) if i <= first or not part.isdigit())


def _reached(language: nn.Module, layers: Mapping[str, nn.Module]) -> list[str]:
    """The layers whose outputs affect the logits (without a head, the hidden states) in training.

    Some layers are never called: the model reads their weights, or uses them only with an encoder. Some choose what is
    attended to, which has no gradient. LoRA there would learn nothing, and other processes would wait for its gradients.

    A zero is added to each output, and only the zeros get gradients. So this takes the memory and time of a few tokens
    only, whatever the model's size. If a model cannot run (it has no data, for example), all layers count.
    """
    embedding = language.get_input_embeddings()
    device = embedding.weight.device
    zeros = {name: torch.zeros((), requires_grad=True) for name in layers}
    # Its gradient is needed so that reentrant checkpoints, which give no gradients for inner tensors, raise an error.
    first = torch.zeros((), requires_grad=True)
    handles = [
        layer.register_forward_hook(lambda module, args, output, zero=zero: output + zero)
        for layer, zero in ((embedding, first), *((layers[name], zero) for name, zero in zeros.items()))
    ]
    devices = [device] if device.type == "cuda" else []
    try:
        with in_mode(language, training=True), torch.enable_grad(), torch.random.fork_rng(devices):
            output = language(input_ids=torch.arange(4, 12, device=device)[None], return_dict=True)
            states = output.get("logits", output.get("last_hidden_state"))
            _, *gradients = torch.autograd.grad(states.sum(), [first, *zeros.values()], allow_unused=True)
    except Exception:  # a model without data, or sharded over processes, may raise anything
        return list(layers)
    finally:
        for handle in handles:
            handle.remove()
    return [name for name, gradient in zip(zeros, gradients, strict=True) if gradient is not None]


@torch.no_grad()
def _is_linear(module: nn.Module) -> bool:
    """Whether LoRA may be added: routers and grouped layers may subclass `Linear`, but compute something else."""
    if not isinstance(module, nn.Linear) or type(module).__name__ in ("Linear4bit", "Linear8bitLt"):
        return type(module).__name__ in ("Conv1D", "Linear4bit", "Linear8bitLt")
    if type(module).forward is nn.Linear.forward:
        return True
    try:
        output = module(module.weight.new_zeros(1, 1, module.in_features))
    except Exception:  # it does not take vectors
        return False
    return isinstance(output, torch.Tensor) and output.shape == (1, 1, module.out_features)
