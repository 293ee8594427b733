"""ImageBind's release: `imagebind_huge.pth`, a file with all six towers."""

from math import isqrt
from typing import Any

from ..towers.imagebind.configuration import TOWERS, ImageBindConfig, ImageBindTowerConfig
from ._base import Options, Plan, Rule, register_conversion
from ._release import Release, Tensors


_SCALES = "fixed; it is the config's logit_scale"


@register_conversion("imagebind", help="imagebind_huge.pth")
def plan(release: Release, options: Options) -> Plan:
    tensors = release.open("imagebind_huge", "weights", ".")
    spec = release.config.get("spec", {})
    towers = {f"{name}_config": tower_config(tensors, name, spec) for name in TOWERS}
    return Plan(
        tower=ImageBindConfig(**towers),
        weights=[(tensors, [rule for name in TOWERS for rule in rules(name, f"{name}_tower.")])],
        licence="cc-by-nc-4.0",
        notes=["The release's file says CC BY-NC 4.0, its model card CC BY-NC-SA 4.0."],
    )


def tower_config(tensors: Tensors, name: str, spec: dict[str, Any]) -> ImageBindTowerConfig:
    """Config of a tower, its sizes by the tensors.

    Args:
        name: one of `TOWERS`.
        spec: what shows in no shape, if it is not as published: arguments of ImageBind's constructor, as they are or
            under "ctor" (`vision_num_heads`, `audio_stride`, ...).
    """
    spec, config_class = {**spec, **spec.get("ctor", {})}, ImageBindConfig.sub_configs[f"{name}_config"]
    blocks = f"modality_trunks.{name}.blocks"
    head = {"text": "proj.1", "imu": "3"}.get(name, "2")
    projection, size = tensors.shape(f"modality_heads.{name}.{head}.weight")
    sizes: dict[str, Any] = {
        "hidden_size": size,
        "projection_dim": projection,
        "num_hidden_layers": tensors.count(f"{blocks}.{{}}.mlp.fc1.weight"),
        "intermediate_size": tensors.shape(f"{blocks}.0.mlp.fc1.weight")[0],
        "kv_bias": f"{blocks}.0.attn.bias_k" in tensors,
    }
    if heads := spec.get(f"{name}_num_heads"):
        sizes["num_attention_heads"] = heads
    scale = f"modality_postprocessors.{name}.1.log_logit_scale"
    # As precise as float32, which the file has.
    sizes["logit_scale"] = float(f"{tensors[scale].double().exp().item():.7g}") if scale in tensors else None
    sizes["learn_logit_scale"] = name == "text" and scale in tensors
    return config_class(**sizes, **_input_sizes(tensors, name, spec))


def _input_sizes(tensors: Tensors, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    parts = f"modality_preprocessors.{name}"
    if name == "text":
        rows, length = tensors.shape(f"{parts}.token_embedding.weight")[0], tensors.shape(f"{parts}.pos_embed")[1]
        return {"vocab_size": rows, "max_position_embeddings": length}
    if name == "imu":
        patch = spec.get("imu_kernel_size", ImageBindConfig.sub_configs["imu_config"].patch_size)
        channels = tensors.shape(f"{parts}.imu_stem.proj.weight")[1] // patch
        length = (tensors.shape(f"{parts}.pos_embed")[1] - 1) * patch
        return {"patch_size": patch, "num_channels": channels, "context_length": length}
    places = tensors.shape(f"{parts}.pos_embedding_helper.pos_embed")[1] - 1
    if name == "vision":
        _, channels, tubelet, patch, _ = tensors.shape(f"{parts}.rgbt_stem.proj.1.weight")
        frames = spec.get("video_frames", tubelet)
        side = isqrt(places // (frames // tubelet)) * patch
        sizes = {"patch_size": patch, "image_size": side, "tubelet_size": tubelet, "video_frames": frames}
        return {**sizes, "num_channels": channels}
    stem = "depth_stem" if name == "depth" else "rgbt_stem"
    _, channels, patch, _ = tensors.shape(f"{parts}.{stem}.proj.weight")
    sizes = {"patch_size": patch, "num_channels": channels}
    if name != "audio":
        return {**sizes, "image_size": isqrt(places) * patch}
    named = {"audio_num_mel_bins": "num_mel_bins", "audio_target_len": "target_length", "audio_stride": "patch_stride"}
    return {**sizes, **{ours: spec[theirs] for theirs, ours in named.items() if theirs in spec}}


def rules(name: str, prefix: str) -> list[Rule]:
    """Where the tensors of one tower go, whose names begin with `prefix` in ours."""
    parts, trunk, head = (rf"modality_{part}\.{name}\." for part in ("preprocessors", "trunks", "heads"))
    inputs = tuple(rf"{prefix}layers.\1.attn.{name}_proj.\2" for name in "qkv")
    scale = rf"modality_postprocessors\.{name}\.1\.log_logit_scale"
    return [
        Rule(rf"{parts}cls_token", f"{prefix}embeddings.class_embedding"),
        Rule(rf"{parts}(?:pos_embedding_helper\.)?pos_embed", f"{prefix}embeddings.position_embedding"),
        Rule(rf"{parts}\w+_stem\.proj\.(?:1\.)?weight", f"{prefix}embeddings.patch_embedding.weight"),
        Rule(rf"{parts}\w+_stem\.norm_layer\.(\w+)", rf"{prefix}embeddings.norm.\1"),
        Rule(rf"{parts}token_embedding\.weight", f"{prefix}embeddings.token_embedding.weight"),
        Rule(rf"{parts}mask", reason="the causal mask, computed when it is needed"),
        Rule(rf"{trunk}pre_transformer_layer\.0\.(\w+)", rf"{prefix}pre_norm.\1"),
        Rule(rf"{trunk}blocks\.(\d+)\.attn\.in_proj_(weight|bias)", inputs, lambda joined: joined.chunk(3)),
        Rule(rf"{trunk}blocks\.(.*)", rf"{prefix}layers.\1"),
        Rule(rf"{head}(?:proj\.)?0\.(\w+)", rf"{prefix}head.norm.\1"),
        Rule(rf"{head}(?:proj\.)?[123]\.weight", f"{prefix}head.projection.weight"),
        Rule(scale, f"{prefix}scale.log_logit_scale") if name == "text" else Rule(scale, reason=_SCALES),
    ]
