"""A LoRA config that hits the language model alone."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from .parts import composite_of


def lora_config(model: nn.Module, r: int = 16, *, lora_alpha: int | None = None, **kwargs) -> Any:
    """A stock `peft.LoraConfig`: LoRA on the language model's linear layers, aligners trained and saved in full.

    Args:
        model: the composite.
        r, lora_alpha: rank and scale (twice the rank if left out).
        kwargs: any other field of `LoraConfig`; `target_modules` may be a list of the language model's layer names
            (["q_proj", "v_proj"]).
    """
    from peft import LoraConfig

    composite = composite_of(model)
    layers = kwargs.pop("target_modules", None) or _linear_names(composite.language_model)
    names = "|".join(re.escape(name) for name in sorted(layers))
    settings = {
        "task_type": "CAUSAL_LM",
        "modules_to_save": [name for name, _ in composite.named_children() if name.endswith("_aligner")],
        **kwargs,
    }
    return LoraConfig(
        r=r,
        lora_alpha=2 * r if lora_alpha is None else lora_alpha,
        target_modules=rf"(.*\.)?language_model\.(.*\.)?({names})",
        **settings,
    )


def _linear_names(language_model: nn.Module) -> set[str]:
    """Names of the linear layers of a language model but for its head, as short as they are theirs alone."""
    head, linear, others = language_model.get_output_embeddings(), [], []
    for name, module in language_model.named_modules():
        (linear if module is not head and _is_linear(module) else others).append(f".{name}")
    names = set()
    for name in linear:
        parts = name.split(".")
        suffixes = (".".join(parts[-count:]) for count in range(1, len(parts)) if not parts[-count].isdigit())
        names.add(next((s for s in suffixes if not any(other.endswith(f".{s}") for other in others)), name[1:]))
    if not names:
        raise ValueError(f"{type(language_model).__name__} has no linear layers for LoRA; pass target_modules.")
    return names


@torch.no_grad()
def _is_linear(module: nn.Module) -> bool:
    """Whether LoRA may be added: a router or a grouped layer that is a kind of `Linear` does something else with it."""
    if not isinstance(module, nn.Linear) or type(module).__name__ in ("Linear4bit", "Linear8bitLt"):
        return type(module).__name__ in ("Conv1D", "Linear4bit", "Linear8bitLt")
    if type(module).forward is nn.Linear.forward:
        return True
    try:
        output = module(module.weight.new_zeros(1, 1, module.in_features))
    except Exception:  # whatever it takes, it is no vector
        return False
    return isinstance(output, torch.Tensor) and output.shape == (1, 1, module.out_features)
