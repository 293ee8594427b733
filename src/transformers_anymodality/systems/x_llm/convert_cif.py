"""Continuous integrate-and-fire of the public PyTorch implementation, alone: `cif_middleware`'s weights and settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ...conversion._base import Options, Plan, Rule, register_conversion
from ...conversion._release import Release, Tensors
from .cif import CifConfig


@torch.no_grad()
def replay(model: Any, config: dict[str, Any], inputs: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """What the original was recorded to give, in evaluation and in training; `inputs` of this CIF alone."""
    was_training = model.training
    for mode in ("eval", "train"):
        model.train(mode == "train")
        output = model(inputs["x"], ~inputs["padding_mask"].bool(), inputs["target_lengths"], return_dict=True)
        yield f"{mode}.cif_out", output.last_hidden_state
        yield f"{mode}.cif_out_padding_mask", output.attention_mask
        yield f"{mode}.quantity_out", output.quantity
    model.train(was_training)


@register_conversion("cif", help="weights of a CifMiddleware, and its settings in config.json", replay=replay)
def plan(release: Release, options: Options) -> Plan:
    tensors = release.open(".", "cif")
    rules = [
        Rule(r"(?:cif\.)?conv\.(.*)", r"conv.\1"),
        Rule(r"(?:cif\.)?dense_proj\.(.*)", r"dense.\1"),
        Rule(r"(?:cif\.)?weight_proj\.(.*)", r"weight.\1"),
        Rule(r"(?:cif\.)?cif_output_proj\.(.*)", r"projection.\1"),
    ]
    return Plan(
        tower=cif_config(tensors, release.config, options.faithful), weights=[(tensors, rules)], licence="apache-2.0"
    )


def cif_config(tensors: Tensors, config: dict[str, Any], faithful: bool = False) -> CifConfig:
    """Sizes by the tensors, thresholds by the config; those that it does not say, as the code has them."""
    names = {name.removeprefix("cif."): name for name in tensors}
    width = tensors.shape(names["weight_proj.weight"])[1]
    kind = next(
        (kind for kind, name in (("conv", "conv.weight"), ("dense", "dense_proj.weight")) if name in names), "linear"
    )
    tails = config.get("apply_tail_handling", True)
    return CifConfig(
        feature_size=width,
        hidden_size=tensors.shape(names["cif_output_proj.weight"])[0] if "cif_output_proj.weight" in names else width,
        weights=kind,
        conv_width=tensors.shape(names["conv.weight"])[2] if kind == "conv" else 3,
        conv_dropout=config.get("conv_cif_dropout", 0.0),
        threshold=config.get("cif_threshold", 0.99),
        scale_weights=config.get("apply_scaling", True),
        tail_threshold=config.get("tail_handling_firing_threshold", 0.5) if tails else None,
        faithful=faithful,
    )
