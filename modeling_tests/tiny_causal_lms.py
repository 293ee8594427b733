"""Tiny configurations of every text decoder that `AutoModelForCausalLM` knows."""

import copy
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from modeling_tests.tiny_configs import shrink


_TEXT_HALF = "multimodal composite; its text half is listed as"
_NEEDS_TARGET = "drafts tokens from the hidden states and caches of a larger model, cannot run alone"

# Model types in the mapping that are no text decoders of their own, and why.
NOT_TEXT_DECODERS: dict[str, str] = {
    "anymodality": "composite of this package, registered when it is imported",
    "dots3_note": f"{_TEXT_HALF} dots3_note_text",
    "fuyu": "multimodal composite around Persimmon, which is listed as persimmon",
    "gemma3": f"{_TEXT_HALF} gemma3_text",
    "gemma3n": f"{_TEXT_HALF} gemma3n_text",
    "gemma4": f"{_TEXT_HALF} gemma4_text",
    "gemma4_assistant": _NEEDS_TARGET,
    "gemma4_unified": f"{_TEXT_HALF} gemma4_unified_text",
    "gemma4_unified_assistant": _NEEDS_TARGET,
    "git": "captioning model with its own vision tower",
    "got_ocr2": "multimodal composite around Qwen2, which is listed as qwen2",
    "llama4": f"{_TEXT_HALF} llama4_text",
    "moss_transcribe_diarize": "speech recognition composite around Qwen3, which is listed as qwen3",
    "musicgen": "decoder of audio codes, not of text",
    "musicgen_melody": "decoder of audio codes, not of text",
    "phi4_multimodal": "multimodal composite with vision and audio towers inside its decoder",
    "qwen3_5": f"{_TEXT_HALF} qwen3_5_text",
    "qwen3_5_moe": f"{_TEXT_HALF} qwen3_5_moe_text",
    "qwen4_exp": f"{_TEXT_HALF} qwen4_exp_text",
    "trocr": "decoder half of an image-to-text encoder-decoder",
    "whisper": "decoder half of a speech-to-text encoder-decoder",
}

_SLIDING_FULL = ["sliding_attention", "full_attention"]
_CONV_FULL = ["conv", "full_attention"]
_LINEAR_FULL = ["linear_attention", "full_attention"]

# Where the general rule fails: what to set, and why.
SPECIAL: dict[str, dict[str, Any]] = {
    # Sequence-pair encoders that are causal only when told so
    **{
        name: {"is_decoder": True}
        for name in (
            "bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert rembert roberta "
            "roberta-prelayernorm roformer xlm-roberta xlm-roberta-xl"
        ).split()
    },
    # The kinds of layers are given by a period or by indices, not by a list
    "bamba": {"attn_layer_indices": [1]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "longcat_flash": {"num_layers": 1, "num_hidden_layers": 2},
    "deepseek_v3": {"first_k_dense_replace": 1},
    "flint": {"mlp_only_layers": [0]},
    "mllama": {"text_config": {"cross_attention_layers": [1]}},
    # The default has only one kind of layer, or no list at all
    "granitemoehybrid": {"layer_types": _LINEAR_FULL},
    "lfm2": {"num_hidden_layers": 2, "full_attn_idxs": None, "layer_types": _CONV_FULL},
    "lfm2_moe": {"num_hidden_layers": 2, "num_dense_layers": 1, "layer_types": _CONV_FULL},
    # Layers before, within and behind its loop
    "dory": {
        "num_hidden_layers": 4,
        "layer_types": 2 * _SLIDING_FULL,
        "n_input_layers": 1,
        "n_recurrent_layers": 2,
        "n_output_layers": 1,
    },
    # The hybrid layers share one transformer block, so there must be two of them
    "zamba": {"num_hidden_layers": 3, "layers_block_type": ["linear_attention", "hybrid", "hybrid"]},
    # The default leaves a needed number open
    "deepseek_v2": {"num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
    },
    # Its attention reads a rotary base and a bound that the default of its sub-configuration lacks
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    # Its attention reads rotary parameters of each kind of layer, which the default lacks
    "cohere_compass_text": {
        "layer_types": _SLIDING_FULL,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]} for kind in _SLIDING_FULL
        },
    },
    # State-space heads of 8: heads * head size = d_ssm
    "falcon_h1": {"mamba_d_ssm": 64},
    # Key and value sharing needs, before the sharing layers, one layer of each kind
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "layer_types": 2 * _SLIDING_FULL,
        "num_kv_shared_layers": 2,
        "intermediate_size": 96,
        "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0],
    },
    # Some of their layers have other head sizes than the rest
    "gemma4_text": {"global_head_dim": 32},
    "gemma4_unified_text": {"global_head_dim": 32},
    "dots3_note_text": {
        "swa_num_attention_heads": 2,
        "swa_num_key_value_heads": 2,
        "swa_q_lora_rank": 32,
        "swa_kv_lora_rank": 32,
        "swa_head_dim": 32,
        "swa_qk_nope_head_dim": 16,
        "swa_v_head_dim": 16,
    },
    # Axial positions train only on sequences of exactly their full length
    "reformer": {"is_decoder": True, "axial_pos_embds": False, "attn_layers": ["local", "lsh"]},
    "roc_bert": {"is_decoder": True, "shape_vocab_size": 8, "pronunciation_vocab_size": 8},
    "xlm": {"causal": True},
    "xmod": {"is_decoder": True, "default_language": "en_XX"},
    # Its inner widths are multiples of 64
    "xlstm": {"hidden_size": 128},
    # Hash tables of byte groups; caches are sized by a number of layers that only its parts have
    "blt": {"encoder_hash_byte_group_vocab": 100, "num_hidden_layers": 2},
}


def causal_lm_types() -> list[str]:
    """The model types of all text decoders that `AutoModelForCausalLM` builds."""
    return [name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in NOT_TEXT_DECODERS]


def tiny_causal_lm(model_type: str, vocab_size: int = 96) -> PreTrainedConfig:
    """A configuration of this type with which `AutoModelForCausalLM.from_config` builds a tiny model."""
    return shrink(CONFIG_MAPPING[model_type](), vocab_size=vocab_size, **copy.deepcopy(SPECIAL.get(model_type, {})))
