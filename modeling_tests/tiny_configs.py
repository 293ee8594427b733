"""Shrinking of any transformers configuration to a size that runs on a CPU in well under a second.

One rule serves all architectures: the class is built again with small values for the fields whose name, or whose
standard name (the one that the class's `attribute_map` leads to), is a known size; and its per-layer lists are cut to
the fewest layers that still hold one layer of each kind. Fields that a class derives by itself (their default is
`None`) are left alone, so that they follow the new sizes, and nothing is ever made larger than its default.
"""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig


PAD, BOS, EOS = 0, 1, 2
HIDDEN = 64

# Names of one kind of size -> its small value.
_SIZE_GROUPS: list[tuple[str, Any]] = [
    ("hidden_size d_model emb_dim embedding_size embedding_dim input_embedding_size word_embed_proj_dim", HIDDEN),
    ("output_embedding_size lru_width attention_hidden_size ple_embed_dim hidden_size_global", HIDDEN),
    ("hidden_size_per_layer_input router_hidden_size moe_latent_size", 16),
    ("num_attention_heads n_heads encoder_attention_heads decoder_attention_heads attention_heads", 4),
    ("num_encoder_attention_heads num_decoder_attention_heads swa_num_attention_heads", 4),
    ("head_dim swa_head_dim d_head dim_head attention_head_size kv_channels", 16),
    ("intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim ffn_hidden_size dense_intermediate_size", 96),
    ("intermediate_size_mlp dim_ff dff d_inner feed_forward_size", 96),
    ("moe_intermediate_size expert_ffn_hidden_size shared_expert_intermediate_size shared_intermediate_size", 32),
    ("moe_shared_expert_intermediate_size shared_experts_intermediate_size", 32),
    ("encoder_layers decoder_layers num_encoder_layers num_decoder_layers num_hidden_layers", 2),
    ("num_experts n_routed_experts num_local_experts moe_num_experts", 4),
    ("num_experts_per_tok num_experts_per_token moe_topk moe_k top_k_experts zero_expert_num", 2),
    ("n_group topk_group num_expert_group n_shared_experts num_shared_experts moe_num_shared_experts", 1),
    # Multi-head latent attention and its indexers
    ("q_lora_rank kv_lora_rank", 32),
    ("qk_nope_head_dim qk_rope_head_dim v_head_dim o_lora_rank", 16),
    ("qk_head_dim index_head_dim", 32),
    # The indexers' scores are sums of rectified ones: with few heads many are zero, and which are chosen is chance.
    ("index_n_heads", 8),
    ("o_groups", 2),
    ("index_topk index_block_size index_topk_blocks", 8),
    # State-space and linear attention: heads * head size = 2 * hidden size
    ("mamba_d_state state_size ssm_state_size mamba_chunk_size chunk_size block_size", 16),
    ("mamba_n_heads mamba_num_heads num_heads", 8),
    ("mamba_d_head mamba_head_dim linear_key_head_dim linear_value_head_dim linear_head_dim", 16),
    ("mamba_d_ssm", 2 * HIDDEN),
    ("linear_num_key_heads", 2),
    ("linear_num_value_heads linear_num_heads", 4),
    ("mamba_dt_rank time_step_rank laurel_rank gated_norm_rank adapter_rank hc_lowrank", 4),
    ("shape_embed_dim pronunciation_embed_dim", 4),
    # Positions and windows
    ("max_position_embeddings max_target_positions n_ctx max_seq_len context_length", 256),
    ("model_max_length original_max_position_embeddings", 256),
    ("sliding_window sliding_window_size attention_window_size local_attention window_size", 16),
    ("attention_chunk_size keep_window_size rel_extent", 16),
    ("rotary_dim", 8),
    # Towers
    ("depth num_spatial_layers num_temporal_layers num_auxiliary_layers pred_num_hidden_layers", 2),
    ("encoder_num_hidden_layers decoder_num_hidden_layers conf_num_hidden_layers speech_encoder_layers", 2),
    ("encoder_num_attention_heads decoder_num_attention_heads conf_num_attention_heads", 4),
    ("pred_num_attention_heads speech_encoder_attention_heads", 4),
    ("image_size pretrain_image_size crop_size spec_size max_img_size num_position_embeddings", 64),
    ("position_embedding_size num_patches", 64),
    ("patch_size", 16),
    ("embed_dim patch_embeds_hidden_size", 24),
    ("out_hidden_size text_hidden_size output_dim output_proj_dims output_hidden_size pooler_output_size", HIDDEN),
    ("projection_hidden_dim projection_intermediate_size mlp_dim pred_hidden_size audio_hidden_size", HIDDEN),
    ("fpn_hidden_size fusion_hidden_size output_channels conv_channels projection_dim", 32),
    ("subsampling_conv_channels downsample_hidden_size", 16),
    ("encoder_hidden_size num_filters codebook_dim", 8),
    ("decoder_hidden_size codebook_size quantization_dim upsample_groups", HIDDEN),
    ("num_conv_pos_embeddings groups_width", 16),
    ("num_conv_pos_embedding_groups num_groups num_frames frames_per_clip", 4),
    ("max_source_positions", 32),
    ("speech_encoder_intermediate_size projection_intermediate_dim", 96),
]
# Lists with one entry for each stage of a pyramid: how many layers, and how wide.
_STAGE_DEPTHS = {"depths", "depth", "blocks_per_stage", "num_block_repeats", "stage_num_blocks", "n_attn_blocks"}
_STAGE_WIDTHS = set(
    "hidden_sizes embed_dims embed_dim stem_channels stage_in_channels stage_mid_channels stage_out_channels "
    "in_channels out_channels neck_hidden_sizes base_attn_unit_dims embed_dim_per_stage backbone_channel_list "
    "conv_dim subsampling_conv_channels sscp_conv_channel_size".split()
)
_WIDTH_DIVISOR = 4
# Lists of the layers that have some part: of the two layers that are left, the last has it.
_LAYER_INDICES = {"deepstack_visual_indexes", "fullatt_block_indexes", "global_attn_indexes"}
SIZES: dict[str, Any] = {name: value for names, value in _SIZE_GROUPS for name in names.split()}
# Number of key/value heads: one for multi-query models, all of them for plain multi-head models, else half of them.
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads", "kv_n_heads", "num_query_groups")
_VOCABULARIES = {"vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size"}
_TOKEN_IDS = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS, "sep_token_id": EOS}


def per_layer_lists(config: PreTrainedConfig) -> dict[str, list[Any]]:
    """The fields of a configuration that hold one value for each layer."""
    lists = {field.name: getattr(config, field.name, None) for field in dataclasses.fields(config)}
    # Where the number of layers is itself derived, the layers are the stages of a pyramid.
    own_name = config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    count = lists.get(own_name)
    return {
        name: list(values)
        for name, values in lists.items()
        if isinstance(values, (list, tuple)) and isinstance(count, int) and len(values) == count > 2
        if name not in _STAGE_DEPTHS | _STAGE_WIDTHS
    }


def kept_layers(lists: Mapping[str, list[Any]], least: int = 2) -> list[int]:
    """Indices of the fewest layers, in order, that still show each value of each per-layer list."""
    count = len(next(iter(lists.values())))
    seen: set[tuple[str, Hashable]] = set()
    kept: list[int] = []
    for index in range(count):
        kinds = {(name, str(values[index])) for name, values in lists.items() if values != list(range(count))}
        if not kinds <= seen:
            seen |= kinds
            kept.append(index)
    kept += [index for index in range(count) if index not in kept][: max(0, least - len(kept))]
    return sorted(kept)


def small_value(name: str, common: str, default: PreTrainedConfig) -> Any:
    """The small value of one field, or `None` where the class's own default is kept."""
    value = getattr(default, name, None)
    if name in _KV_HEADS or common in _KV_HEADS:
        heads = next((getattr(default, key) for key in ("num_attention_heads", "n_heads") if hasattr(default, key)), 0)
        return 1 if value == 1 else SIZES["num_attention_heads"] // (1 if value == heads else 2)
    if name == "head_dim" and value is None:
        return SIZES["head_dim"]
    if isinstance(value, (list, tuple)) and value and all(isinstance(entry, int) for entry in value):
        return small_list(name, value)
    # The stages of a pyramid are as many as its lists have entries.
    size = None if name == "num_stages" else SIZES.get(common, SIZES.get(name))
    # A value of zero or none switches a part off.
    if size is None or not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        return None
    return min(size, value)


def small_list(name: str, values: Sequence[int]) -> list[int] | None:
    """The small value of a field with several sizes, or `None` where the class's own default is kept."""
    if name in _STAGE_DEPTHS:
        return [1] * len(values)
    if name in _STAGE_WIDTHS:
        # A first entry of 3 are the channels of an image.
        return [value if value < _WIDTH_DIVISOR else value // _WIDTH_DIVISOR for value in values]
    if name in _LAYER_INDICES:
        return [SIZES["num_hidden_layers"] - 1]
    if name == "image_size":
        return [min(SIZES[name], value) for value in values]
    return None


def shrink(
    default: PreTrainedConfig, *, vocab_size: int | None = None, is_part: bool = False, **overrides: Any
) -> PreTrainedConfig:
    """Build the class of `default` again with small sizes; `overrides` win over the general rule."""
    cls = type(default)
    # Sizes that differ between layers are read as the size that most layers have.
    default.allow_global_per_layer_attribute_access = True
    common_names = {own: common for common, own in cls.attribute_map.items()}
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        value, name = getattr(default, field.name, None), field.name
        common = common_names.get(name, name)
        if is_part and field.default is not None and value is not None and value != field.default:
            # The whole gave its part other values than the part's own defaults.
            values[name] = value
        if isinstance(value, PreTrainedConfig):
            inner = overrides.pop(name, {})
            if not isinstance(inner, PreTrainedConfig):
                inner = shrink(value, **{"vocab_size": vocab_size, "is_part": True, **inner})
            values[name] = inner
        elif name in _TOKEN_IDS:
            values[name] = _TOKEN_IDS[name]
        elif _VOCABULARIES & {name, common} and vocab_size is not None:
            values[name] = vocab_size
        elif field.default is not None or name in _STAGE_DEPTHS | _STAGE_WIDTHS | {"head_dim"}:
            small = small_value(name, common, default)
            values |= {} if small is None else {name: small}
    lists = per_layer_lists(default)
    if lists:
        kept = kept_layers(lists)
        for name, entries in lists.items():
            # A list of all layer indices (the layers that have some part) stays one.
            is_range = entries == list(range(len(entries)))
            values[name] = list(range(len(kept))) if is_range else [entries[index] for index in kept]
        values[cls.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = len(kept)
    return cls(**{**values, **overrides}, dtype="float32")
