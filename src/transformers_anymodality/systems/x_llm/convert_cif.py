"""Continuous integrate-and-fire of the public PyTorch implementation, alone: `cif_middleware`'s weights and settings."""

from __future__ import annotations

from typing import Any

from ...conversion import Options, Plan, Release, Rule, Tensors, register_conversion
from .cif import CifConfig


@register_conversion("cif", help="weights of a CifMiddleware, and its settings in config.json")
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
