"""IMU2CLIP's files: an encoder as it is saved by itself, or in a checkpoint of its training. None were released."""

from typing import Any

from ..towers.imu2clip import Imu2ClipConfig, Imu2ClipPatchTransformerConfig
from ._base import Options, Plan, Rule, register_conversion
from ._release import Release, Tensors


_TRAINING = "imu_encoder."  # what names begin with in a checkpoint of the training, beside its loss
_PREFIX = r"(?:imu_encoder\.)?"


@register_conversion("imu2clip", help="an encoder's file (..._src_encoder.pt), or a checkpoint of its training")
def plan(release: Release, options: Options) -> Plan:
    tensors = release.open("src_encoder", "best_ckpt_state_dict", "patch_transformer", ".")
    prefix = _TRAINING if any(name.startswith(_TRAINING) for name in tensors) else ""
    if f"{prefix}imu_token_embed.weight" in tensors:
        config: Any = patch_config(tensors, prefix, release.config)
        rules = patch_rules(config.class_token)
    else:
        config, rules = encoder_config(tensors, prefix, release.config), encoder_rules()
    return Plan(
        tower=config,
        weights=[(tensors, [*rules, *_OTHERS])],
        licence="cc-by-nc-4.0",
        notes=["The original's code is under CC BY-NC 4.0; weights are those of who trained them."],
    )


def encoder_config(tensors: Tensors, prefix: str, config: dict[str, Any]) -> Imu2ClipConfig:
    """Sizes by the tensors; the length is what the config says, or the usual one if it fits, or the least that does."""
    channels, inputs, _ = tensors.shape(f"{prefix}net.1.net.0.weight")
    lengths = [config.get("mw2", {}).get("length"), Imu2ClipConfig.context_length, Imu2ClipConfig.shortest(channels)]
    return Imu2ClipConfig(
        hidden_size=tensors.shape(f"{prefix}net.5.weight_hh_l0")[1],
        conv_channels=channels,
        num_channels=inputs,
        context_length=next(n for n in lengths if n is not None and Imu2ClipConfig.steps(n) == channels),
    )


def patch_config(tensors: Tensors, prefix: str, config: dict[str, Any]) -> Imu2ClipPatchTransformerConfig:
    """Sizes by the tensors; heads show in no shape, nor does whether a class token that is there is used."""
    size, patch = tensors.shape(f"{prefix}imu_token_embed.weight")
    told = config.get("patch_transformer", {})
    samples = told.get("patch_size", patch // Imu2ClipPatchTransformerConfig.num_channels)
    shown = {
        "num_attention_heads": told.get("nhead"),
        "context_length": config.get("mw2", {}).get("length"),
    }
    return Imu2ClipPatchTransformerConfig(
        hidden_size=size,
        patch_size=samples,
        num_channels=patch // samples,
        num_hidden_layers=tensors.count(f"{prefix}model.layers.{{}}.linear1.weight"),
        intermediate_size=tensors.shape(f"{prefix}model.layers.0.linear1.weight")[0],
        class_token=f"{prefix}cls" in tensors and told.get("cls_token", True),
        **{name: value for name, value in shown.items() if value is not None},
    )


def encoder_rules() -> list[Rule]:
    return [
        Rule(rf"{_PREFIX}net\.0\.(\w+)", r"input_norm.\1"),
        *(Rule(rf"{_PREFIX}net\.{block + 1}\.net\.0\.weight", f"blocks.{block}.conv.weight") for block in range(3)),
        Rule(rf"{_PREFIX}net\.4\.(\w+)", r"norm.\1"),
        Rule(rf"{_PREFIX}net\.5\.(\w+)", r"gru.\1"),
    ]


def patch_rules(class_token: bool) -> list[Rule]:
    inputs = tuple(rf"layers.\1.self_attn.{name}_proj.\2" for name in "qkv")
    first = Rule(rf"{_PREFIX}cls", "class_embedding")
    return [
        first if class_token else Rule(first.source, reason="the mean of all states is read instead"),
        Rule(rf"{_PREFIX}imu_token_embed\.weight", "patch_embedding.weight"),
        Rule(rf"{_PREFIX}model\.layers\.(\d+)\.self_attn\.in_proj_(\w+)", inputs, lambda joined: joined.chunk(3)),
        Rule(rf"{_PREFIX}model\.layers\.(.*)", r"layers.\1"),
    ]


_OTHERS = [
    Rule(r"loss\..*", reason="of the training's loss"),
    Rule(r"(?!imu_encoder\.)\w*(?:encoder|clip)\w*\..*", reason="of what the encoder was trained towards"),
]
