"""LLaMA of 2023, inside releases of several systems: its config by its tensors, and where they go."""

from collections.abc import Mapping
from typing import Any

from transformers import LlamaConfig

from ._base import Rule
from ._release import Tensors


# What configs of its time say that is the architecture; other fields are about libraries that are gone.
_TOLD = ("max_position_embeddings", "rms_norm_eps", "hidden_act", "initializer_range", "bos_token_id", "eos_token_id")


def llama_config(tensors: Tensors, prefix: str, told: Mapping[str, Any]) -> LlamaConfig:
    """Sizes are read off the tensors under `prefix` (`"llm."`). The rest is what the release's config has `told`;
    heads are 128 wide if it does not tell."""
    rows, hidden = tensors.shape(f"{prefix}model.embed_tokens.weight")
    heads = told.get("num_attention_heads") or max(1, hidden // 128)
    padding = told.get("pad_token_id")
    return LlamaConfig(
        vocab_size=rows,
        hidden_size=hidden,
        intermediate_size=tensors.shape(f"{prefix}model.layers.0.mlp.gate_proj.weight")[0],
        num_hidden_layers=tensors.count(f"{prefix}model.layers.{{}}.mlp.gate_proj.weight"),
        num_attention_heads=heads,
        num_key_value_heads=tensors.shape(f"{prefix}model.layers.0.self_attn.k_proj.weight")[0] * heads // hidden,
        pad_token_id=padding if padding is not None and 0 <= padding < rows else None,
        **{"rms_norm_eps": 1e-6, **{name: told[name] for name in _TOLD if told.get(name) is not None}},
    )


def llama_rules(prefix: str) -> list[Rule]:
    """`prefix`: as a regular expression."""
    return [
        Rule(rf"{prefix}.*\.rotary_emb\.inv_freq", reason="rotary frequencies, which follow from the config"),
        Rule(rf"{prefix}(.*)", r"language_model.\1"),
    ]
