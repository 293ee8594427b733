"""The language model of a release of X-LLM: ChatGLM-6B as it was published, as a checkpoint holds it, or another one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...conversion import Options, Release, Rule, Tensors
from .chatglm import ChatGLMConfig
from .chatglm_tokenizer import chatglm_tokenizer


_CHATGLM = ("chatglm-6b", "chatglm_6b", "chatglm")  # what a folder of it is called
_COUNTED = "computed from the config"
_OTHER = "another language model was chosen"
_WORD_TABLE = "transformer.word_embeddings.weight"
_NOTES = ["ChatGLM-6B's licence holds for the language model."]


@dataclass
class Language:
    """What `compose` takes, what becomes of `opt_model` in the checkpoint, and files of its own."""

    source: Any
    rule: Rule
    weights: list[tuple[Tensors, list[Rule]]] = field(default_factory=list)
    tokenizer: Any = None
    notes: list[str] = field(default_factory=list)


def language_model(own: Tensors, folder: Release, options: Options) -> Language:
    """The one that the user chose, or the checkpoint's, or that of a folder of ChatGLM-6B beside it."""
    chosen, absent = options.language_model, Rule(r"opt_model\..*", reason=_OTHER)
    if chosen is not None and not _is_published(Path(chosen)):
        return Language(chosen, absent, notes=["The interfaces were not trained with this language model."])
    if chosen is None and f"opt_model.{_WORD_TABLE}" in own:
        config = chatglm_config(own, "opt_model.", folder.config.get("glm", {}))
        return Language(config, Rule(r"opt_model\.(.*)", r"language_model.\1"), notes=_NOTES)
    places = [Path(chosen)] if chosen is not None else [folder.folder / name for name in _CHATGLM]
    place = next((place for place in places if _is_published(place)), None)
    if place is None:
        raise ValueError(
            f"{own.files[0].name} holds no language model, and no folder {_CHATGLM[0]} with the published files is beside "
            "it. Give such a folder by --language-model, or another language model of the width that was trained for."
        )
    published = Release(place)
    tensors = published.open(".")
    rules = [Rule(r".*rotary_emb\.inv_freq", reason=_COUNTED), Rule(r"(.*)", r"language_model.\1")]
    config = chatglm_config(tensors, "", published.config)
    file, tokenizer = place / "ice_text.model", None
    if file.is_file() and options.tokenizer is None:
        tokenizer = chatglm_tokenizer(file, config.gmask_token_id)
    return Language(config, absent, [(tensors, rules)], tokenizer, _NOTES)


def _is_published(folder: Path) -> bool:
    """Whether it is a folder of ChatGLM-6B as published, whose model type three later models share."""
    config = Release(folder).config if folder.is_dir() else {}
    return config.get("model_type") == "chatglm" and "inner_hidden_size" in config


def chatglm_config(tensors: Tensors, prefix: str, given: dict[str, Any]) -> ChatGLMConfig:
    """Sizes by the tensors, ids by the config; of those that a config does not say, the published ones."""
    rows, size = tensors.shape(f"{prefix}{_WORD_TABLE}")
    layers = f"{prefix}transformer.layers"
    ids = ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id", "gmask_token_id")
    kept = {key: given[key] for key in ids if key in given}
    return ChatGLMConfig(
        vocab_size=rows,
        hidden_size=size,
        num_hidden_layers=tensors.count(f"{layers}.{{}}.input_layernorm.weight"),
        num_attention_heads=given.get("num_attention_heads", max(1, size // 128)),
        intermediate_size=tensors.shape(f"{layers}.0.mlp.dense_h_to_4h.weight")[0],
        max_position_embeddings=given.get("max_sequence_length", 2048),
        layer_norm_eps=given.get("layernorm_epsilon", 1e-5),
        **kept,
    )
