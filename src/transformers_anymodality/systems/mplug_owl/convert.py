"""mPLUG-Owl's releases (llama-7b, bloomz-7b, llama-7b-video): each is one folder with the whole model."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from ...conversion import Options, Plan, Release, Rule, Tensors, llama_config, llama_rules, register_conversion
from . import mplug_owl
from .bloom import MplugOwlBloomConfig
from .tower import MplugOwlVisionConfig


_ENDS = r"\.(weight|bias)"
_LICENCES = {"llama": "LLaMA's licence", "bloomz": "the BigScience RAIL licence"}


# --- rules ---------------------------------------------------------------------------------------------------------


def _split_heads(fused: torch.Tensor, heads: int) -> tuple[torch.Tensor, ...]:
    """Query, key and value of a fused projection, whose rows are laid out as (heads, 3, head dim)."""
    return tuple(part.flatten(0, 1) for part in fused.unflatten(0, (heads, 3, -1)).unbind(1))


def _first(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[0]


def _over_time(tensor: torch.Tensor) -> torch.Tensor:
    """A convolution with kernel (time, 1, 1) as a 1-D convolution."""
    return tensor[..., 0, 0] if tensor.ndim == 5 else tensor


def _as_linear(tensor: torch.Tensor) -> torch.Tensor:
    """A 1 x 1 x 1 convolution as a linear layer."""
    return tensor.flatten(1) if tensor.ndim == 5 else tensor


def _vision_rules(heads: int) -> list[Rule]:
    embeddings, theirs = r"vision_model\.embeddings\.", r"vision_model\.encoder\.layers\.(\d+)\."
    ours = r"image_tower.layers.\1."
    split = tuple(rf"{ours}self_attn.{part}_proj.\2" for part in "qkv")
    return [
        Rule(rf"{embeddings}cls_token", "image_tower.embeddings.class_embedding", torch.flatten),
        Rule(rf"{embeddings}patch_embed\.weight", "image_tower.embeddings.patch_embedding.weight"),
        Rule(rf"{embeddings}position_embedding", "image_tower.embeddings.position_embedding.weight", _first),
        Rule(rf"{embeddings}pre_layernorm{_ENDS}", r"image_tower.pre_layernorm.\1"),
        Rule(rf"{theirs}self_attn\.query_key_value{_ENDS}", split, partial(_split_heads, heads=heads)),
        Rule(rf"{theirs}self_attn\.dense{_ENDS}", rf"{ours}self_attn.out_proj.\2"),
        Rule(rf"{theirs}input_layernorm{_ENDS}", rf"{ours}layer_norm1.\2"),
        Rule(rf"{theirs}post_attention_layernorm{_ENDS}", rf"{ours}layer_norm2.\2"),
        Rule(rf"{theirs}mlp\.(fc1|fc2){_ENDS}", rf"{ours}mlp.\2.\3"),
        Rule(rf"{theirs}temporal\.ln{_ENDS}", rf"{ours}temporal.norm.\2"),
        Rule(rf"{theirs}temporal\.(down_proj|up_proj){_ENDS}", rf"{ours}temporal.\2.\3", _as_linear),
        Rule(rf"{theirs}temporal\.conv{_ENDS}", rf"{ours}temporal.conv.\2", _over_time),
        Rule(rf"vision_model\.post_layernorm{_ENDS}", r"image_tower.post_layernorm.\1"),
    ]


_ABSTRACTOR = r"abstractor\.encoder\.layers\.(\d+)\.crossattention\."
_ABSTRACTOR_RULES = [
    Rule("query_tokens", "image_aligner.queries", _first),
    Rule("temporal_query_tokens", "image_aligner.temporal_queries", _first),
    Rule(rf"{_ABSTRACTOR}(norm1|normk){_ENDS}", r"image_aligner.layers.\1.attention.\2.\3"),
    Rule(rf"{_ABSTRACTOR}attention\.([qkv])\w+{_ENDS}", r"image_aligner.layers.\1.attention.\2_proj.\3"),
    Rule(rf"{_ABSTRACTOR}output\.out_proj{_ENDS}", r"image_aligner.layers.\1.attention.out_proj.\2"),
    Rule(rf"{_ABSTRACTOR}output\.norm2{_ENDS}", r"image_aligner.layers.\1.norm2.\2"),
    Rule(rf"{_ABSTRACTOR}output\.mlp\.(w1|w2|w3|ffn_ln){_ENDS}", r"image_aligner.layers.\1.\2.\3"),
    Rule(rf"abstractor\.(visual_fc|temporal_visual_fc){_ENDS}", r"image_aligner.\1.\2"),
    Rule(r"abstractor\.vit_eos", "image_aligner.end_token", torch.flatten),
]


def _bloom_rules(config: MplugOwlBloomConfig) -> list[Rule]:
    head = r"language_model\.lm_head\.weight"
    norm = rf"language_model\.transformer\.word_embeddings_layernorm{_ENDS}"
    return [
        *([Rule(head, reason="the same tensor as the embeddings")] if config.tie_word_embeddings else []),
        Rule(norm, r"language_model.transformer.word_embeddings.norm.\1"),
        Rule(r"(language_model\..*)", r"\1"),
    ]


# --- configs, by shapes where possible ----------------------------------------------------------------------------


def _vision_config(tensors: Tensors, given: Mapping[str, Any]) -> MplugOwlVisionConfig:
    patches, positions = (f"vision_model.embeddings.{one}" for one in ("patch_embed.weight", "position_embedding"))
    sizes = tensors.vit_sizes(patches, positions, "vision_model.encoder.layers")
    return MplugOwlVisionConfig(
        **sizes,
        num_channels=tensors.shape(patches)[1],
        num_attention_heads=given.get("num_attention_heads", sizes["hidden_size"] // 64),
        layer_norm_eps=given.get("layer_norm_eps", 1e-6),
        temporal="temporal_query_tokens" in tensors,
    )


def _abstractor_settings(tensors: Tensors, given: Mapping[str, Any]) -> dict[str, Any]:
    _, queries, dim = tensors.shape("query_tokens")
    layers = "abstractor.encoder.layers."
    return {
        "num_tokens": queries + 1,
        "depth": tensors.count(f"{layers}{{}}.crossattention.norm1.weight"),
        "num_heads": given.get("num_attention_heads", dim // 64),
        "intermediate_size": tensors.shape(f"{layers}0.crossattention.output.mlp.w1.weight")[0],
        "attention_dropout": given.get("attention_probs_dropout_prob", 0.1),
        "ffn_layer_norm_eps": given.get("layer_norm_eps", 1e-6),
    }


def _bloom_config(tensors: Tensors, given: Mapping[str, Any]) -> MplugOwlBloomConfig:
    prefix = "language_model.transformer."
    vocabulary, hidden = tensors.shape(f"{prefix}word_embeddings.weight")
    head = "language_model.lm_head.weight"
    tied = head not in tensors or torch.equal(tensors[head], tensors[f"{prefix}word_embeddings.weight"])
    padding = given.get("pad_token_id")
    return MplugOwlBloomConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        n_layer=tensors.count(f"{prefix}h.{{}}.input_layernorm.weight"),
        n_head=given.get("n_head", given.get("num_attention_heads", max(1, hidden // 128))),
        layer_norm_epsilon=given.get("layer_norm_epsilon", 1e-5),
        apply_residual_connection_post_layernorm=given.get("apply_residual_connection_post_layernorm", False),
        tie_word_embeddings=tied,
        pad_token_id=padding if padding is not None and 0 <= padding < vocabulary else None,
    )


@register_conversion("mplug_owl", help="a folder with config.json and pytorch_model or model, sharded or not")
def plan(release: Release, options: Options) -> Plan:
    """Reads the kind of release and most sizes from the tensors, the rest from config.json."""
    tensors, config = release.open("."), release.config
    if "query_tokens" not in tensors:
        raise ValueError(f"{release.folder} has no query_tokens: it is not a release of mPLUG-Owl's first version.")
    bloomz = "language_model.transformer.word_embeddings.weight" in tensors
    kind = "bloomz" if bloomz else "video" if "temporal_query_tokens" in tensors else "llama"
    told, language = config.get("text_config") or {}, options.language_model
    if bloomz and language is not None:
        raise ValueError("Media bypass the norm of this release's BLOOM, which no other language model does.")
    if language is not None:
        rules = [Rule(r"language_model\..*", reason="another language model was chosen")]
    elif bloomz:
        language = _bloom_config(tensors, told)
        rules = _bloom_rules(language)
    else:
        language, rules = llama_config(tensors, "language_model.", told), llama_rules(r"language_model\.")
    vision = _vision_config(tensors, config.get("vision_config") or {})
    return Plan(
        compose=mplug_owl(
            language,
            options.tokenizer,
            release=kind,
            towers={"image": vision},
            aligners=_abstractor_settings(tensors, config.get("visual_abstractor_config") or {}),
            faithful=options.faithful,
        ),
        weights=[(tensors, [*_vision_rules(vision.num_attention_heads), *_ABSTRACTOR_RULES, *rules])],
        notes=[
            "The release is tagged Apache-2.0; the weights of its language model are under "
            f"{_LICENCES['bloomz' if bloomz else 'llama']}."
        ],
    )
