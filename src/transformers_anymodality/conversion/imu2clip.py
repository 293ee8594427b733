"""IMU2CLIP's files: an encoder as it is saved by itself, or in a checkpoint of its training. None were released."""

from __future__ import annotations

from typing import Any

from ..towers.imu2clip import Imu2ClipConfig, Imu2ClipPatchTransformerConfig
from ._base import Options, Plan, Rule, register_conversion
from ._release import Release, Tensors


# In a checkpoint of the training, beside its loss.
_PREFIX = r"(?:imu_encoder\.)?"


@register_conversion(
    "imu2clip",
    help="an encoder's file (..._src_encoder.pt), or a checkpoint of its training",
)
def plan(release: Release, options: Options) -> Plan:
    tensors = release.open("src_encoder", "best_ckpt_state_dict", "patch_transformer", ".")
    patches = any(name.endswith("imu_token_embed.weight") for name in tensors)
    return Plan(
        tower=(patch_config if patches else encoder_config)(tensors, release.config),
        weights=[(tensors, patch_rules() if patches else encoder_rules())],
        licence="cc-by-nc-4.0",
        notes=["The original's code is under CC BY-NC 4.0; weights are those of who trained them."],
    )


def _shape(tensors: Tensors, name: str) -> tuple[int, ...]:
    return tensors.shape(name if name in tensors else f"imu_encoder.{name}")


def encoder_config(tensors: Tensors, config: dict[str, Any]) -> Imu2ClipConfig:
    """Sizes by the tensors; the length of recordings is the usual 1000 samples, if it fits."""
    channels, inputs, _ = _shape(tensors, "net.1.net.0.weight")
    sizes = {
        "hidden_size": _shape(tensors, "net.5.weight_hh_l0")[1],
        "conv_channels": channels,
        "num_channels": inputs,
    }
    lengths = [config.get("mw2", {}).get("length", Imu2ClipConfig.context_length), Imu2ClipConfig.shortest(channels)]
    for length in lengths:
        try:
            return Imu2ClipConfig(**sizes, context_length=length)
        except ValueError as error:
            problem = error
    raise problem


def patch_config(tensors: Tensors, config: dict[str, Any]) -> Imu2ClipPatchTransformerConfig:
    """Sizes by the tensors; heads show in no shape."""
    size, patch = _shape(tensors, "imu_token_embed.weight")
    found = next(name for name in tensors if name.endswith("imu_token_embed.weight"))
    prefix, given = found.removesuffix("imu_token_embed.weight"), config.get("patch_transformer", {})
    channels = Imu2ClipPatchTransformerConfig.num_channels
    sizes = {
        "hidden_size": size,
        "patch_size": patch // channels,
        "num_hidden_layers": tensors.count(f"{prefix}model.layers.{{}}.linear1.weight"),
        "intermediate_size": _shape(tensors, "model.layers.0.linear1.weight")[0],
        "class_token": f"{prefix}cls" in tensors and given.get("cls_token", True),
    }
    if "nhead" in given:
        sizes["num_attention_heads"] = given["nhead"]
    if "length" in config.get("mw2", {}):
        sizes["context_length"] = config["mw2"]["length"]
    return Imu2ClipPatchTransformerConfig(**sizes)


def encoder_rules() -> list[Rule]:
    return [
        Rule(rf"{_PREFIX}net\.0\.(\w+)", r"input_norm.\1"),
        *(Rule(rf"{_PREFIX}net\.{block + 1}\.net\.0\.weight", f"blocks.{block}.conv.weight") for block in range(3)),
        Rule(rf"{_PREFIX}net\.4\.(\w+)", r"norm.\1"),
        Rule(rf"{_PREFIX}net\.5\.(\w+)", r"gru.\1"),
        *_training(),
    ]


def patch_rules() -> list[Rule]:
    inputs = tuple(rf"layers.\1.self_attn.{name}_proj.\2" for name in "qkv")
    return [
        Rule(rf"{_PREFIX}cls", "class_embedding"),
        Rule(rf"{_PREFIX}imu_token_embed\.weight", "patch_embedding.weight"),
        Rule(rf"{_PREFIX}model\.layers\.(\d+)\.self_attn\.in_proj_(\w+)", inputs, lambda joined: joined.chunk(3)),
        Rule(rf"{_PREFIX}model\.layers\.(.*)", r"layers.\1"),
        *_training(),
    ]


def _training() -> list[Rule]:
    return [
        Rule(r"loss\..*", reason="of the training's loss"),
        Rule(r"(?!imu_encoder\.)\w*(?:encoder|clip)\w*\..*", reason="of what the encoder was trained towards"),
    ]
