"""Perceiver resamplers as aligners: those of OpenFlamingo (alone or within its checkpoint), of flamingo-pytorch and of
IDEFICS. IDEFICS2's is another architecture."""

import re

from ..aligners import PerceiverResamplerAlignerConfig
from ._base import Options, Plan, Rule, register_conversion
from ._release import Release, Tensors


_NOTE = (
    "Its output has the width of its features, as released. To start your own aligner from it, with a new projection "
    'to the language model: `model.image_aligner.load_state_dict(AutoModel.from_pretrained("...")'
    ".state_dict(), strict=False)`."
)


@register_conversion("perceiver_resampler", help="a Perceiver resampler of OpenFlamingo, flamingo-pytorch or IDEFICS")
def plan(release: Release, options: Options) -> Plan:
    """An aligner without projection. Sizes are read off the tensors, but for the width of a head: the release's config
    says it (`dim_head`), or it is that of the implementation, 64, and 96 in IDEFICS."""
    tensors = release.open(".", "checkpoint", "weights")
    prefix = _prefix(tensors)
    blocks = any(name.startswith(f"{prefix}blocks.") for name in tensors)
    given = {**release.config, **release.config.get("perceiver_config", {})}
    start = re.escape(prefix)
    rules = [Rule(f"{start}{one.source}", one.target, one.change) for one in (_IDEFICS if blocks else _FLAMINGO)]
    if prefix:
        rules.append(Rule(rf"(?!{start}).*", reason="not of the resampler"))
    return Plan(tower=_config(tensors, prefix, given, blocks), weights=[(tensors, rules)], notes=[_NOTE])


def _prefix(tensors: Tensors) -> str:
    """What the names of a resampler's tensors begin with, in a file that may hold more."""
    for name in tensors:
        prefix = name.removesuffix("latents")
        layers = ("layers.0.0.to_q.weight", "blocks.0.0.q_proj.weight")
        if name.endswith("latents") and any(f"{prefix}{layer}" in tensors for layer in layers):
            return prefix
    raise ValueError(
        f"{tensors.files[0].name} does not hold a Perceiver resampler: expected `latents`, and with the same prefix "
        "the layers of Flamingo (`layers.0.0.to_q`) or IDEFICS (`blocks.0.0.q_proj`)."
    )


def _config(tensors: Tensors, prefix: str, given: dict, blocks: bool) -> PerceiverResamplerAlignerConfig:
    query = f"{prefix}blocks.{{}}.0.q_proj.weight" if blocks else f"{prefix}layers.{{}}.0.to_q.weight"
    up = f"{prefix}blocks.0.1.fc.weight" if blocks else f"{prefix}layers.0.1.1.weight"
    norm = f"{prefix}blocks.0.0.q_layer_norm.weight"
    tokens, size = tensors.shape(f"{prefix}latents")
    head = given.get("resampler_head_dim", given.get("dim_head", 96 if blocks else 64))
    head = tensors.shape(norm)[0] if norm in tensors else head
    embeddings = {"time_embeddings": ("media_pos_emb", "media_time_embs"), "frame_embeddings": ("frame_embs",)}
    rows = {
        field: next((tensors.shape(f"{prefix}{name}")[0] for name in names if f"{prefix}{name}" in tensors), 0)
        for field, names in embeddings.items()
    }
    return PerceiverResamplerAlignerConfig(
        feature_size=size,
        hidden_size=size,
        num_tokens=tokens,
        depth=tensors.count(query),
        num_heads=tensors.shape(query.format(0))[0] // head,
        head_dim=head,
        ff_mult=tensors.shape(up)[0] // size,
        hidden_act="relu" if blocks else "gelu",
        qk_norm=norm in tensors,
        # flamingo-pytorch resamples each image or frame by itself; OpenFlamingo all frames of a video together.
        per_frame=f"{prefix}media_pos_emb" in tensors,
        project=False,
        **rows,
    )


_FLAMINGO = [
    Rule(r"(media_pos_emb|media_time_embs)", "time_embeddings", change=lambda embeddings: embeddings.squeeze(1)),
    Rule(r"frame_embs", "frame_embeddings"),
    Rule(r"layers\.(\d+)\.0\.(norm_.*)", r"layers.\1.attention.\2"),
    Rule(r"layers\.(\d+)\.0\.to_q\.weight", r"layers.\1.attention.q_proj.weight"),
    Rule(
        r"layers\.(\d+)\.0\.to_kv\.weight",
        (r"layers.\1.attention.k_proj.weight", r"layers.\1.attention.v_proj.weight"),
        change=lambda joined: joined.chunk(2),
    ),
    Rule(r"layers\.(\d+)\.0\.to_out\.weight", r"layers.\1.attention.o_proj.weight"),
    Rule(r"layers\.(\d+)\.1\.0\.(.*)", r"layers.\1.norm.\2"),
    Rule(r"layers\.(\d+)\.1\.1\.weight", r"layers.\1.up_proj.weight"),
    Rule(r"layers\.(\d+)\.1\.3\.weight", r"layers.\1.down_proj.weight"),
    Rule(r"(latents|norm\..*)", r"\1"),
]
_IDEFICS = [
    Rule(r"blocks\.(\d+)\.0\.context_layer_norm\.(.*)", r"layers.\1.attention.norm_media.\2"),
    Rule(r"blocks\.(\d+)\.0\.latents_layer_norm\.(.*)", r"layers.\1.attention.norm_latents.\2"),
    Rule(r"blocks\.(\d+)\.0\.([qk])_layer_norm\.(.*)", r"layers.\1.attention.\2_norm.\3"),
    Rule(r"blocks\.(\d+)\.0\.output_proj\.weight", r"layers.\1.attention.o_proj.weight"),
    Rule(r"blocks\.(\d+)\.0\.([qkv])_proj\.weight", r"layers.\1.attention.\2_proj.weight"),
    Rule(r"blocks\.(\d+)\.1\.ln\.(.*)", r"layers.\1.norm.\2"),
    Rule(r"blocks\.(\d+)\.1\.fc\.weight", r"layers.\1.up_proj.weight"),
    Rule(r"blocks\.(\d+)\.1\.c_proj\.weight", r"layers.\1.down_proj.weight"),
    Rule(r"layer_norm\.(.*)", r"norm.\1"),
    Rule(r"latents", "latents"),
]
