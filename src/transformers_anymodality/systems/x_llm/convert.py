"""X-LLM's checkpoints, as its training writes them, and files of others for what they leave out.

None was released. A checkpoint of its training (`checkpoint_N.pth`) holds what was trained, and some of what was not;
BLIP-2's file, EVA's and ChatGLM-6B's folder beside it give the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from transformers import Blip2VisionConfig

from ...conversion import Options, Plan, Release, Rule, Tensors, register_conversion
from ...towers import PrecomputedConfig
from .chatglm import ChatGLMConfig
from .chatglm_tokenizer import chatglm_tokenizer
from .preset import x_llm


# Where a checkpoint leaves parts out that were frozen, they are in files of others.
_BLIP2 = ("blip2_pretrained_opt6.7b", "blip2_pretrained")
_EVA = ("eva_vit_g",)
_CHATGLM = ("chatglm-6b", "chatglm_6b", "chatglm")
_COUNTED = "computed from the config"
_TEXT = "of the Q-Former's text branch, which X-LLM takes out"
_WORDS = "speech takes the place of words, and the pooler is not read"
_OWN = "the checkpoint has its own"
_OTHER = "another language model was chosen"
_WORD_TABLE = "transformer.word_embeddings.weight"
_NOTES = ["ChatGLM-6B's licence holds for the language model."]


# --- the system ------------------------------------------------------------------------------------------------------


@register_conversion(
    "x_llm",
    help="a checkpoint of X-LLM's training; beside it, for what it leaves out, BLIP-2's file, eva_vit_g.pth and a folder "
    "of ChatGLM-6B (or --language-model)",
)
def plan(release: Release, options: Options) -> Plan:
    """What was trained comes from the checkpoint, what it leaves out from files of others beside it.

    Without keys of a video interface, the image's queries and projection are the video's, too, as the original's loader
    has it. A checkpoint without a speech interface becomes a system without speech.
    """
    folder = release if release.folder.is_dir() else Release(release.folder.parent)
    checkpoints = sorted(folder.folder.glob("checkpoint*.pth"), key=lambda path: (len(path.stem), path.stem))
    own = release.open(".", "xllm", "x_llm", *(path.stem for path in reversed(checkpoints)))
    sources = [own, *(folder.open(name) for name in (*_BLIP2, *_EVA) if folder.has(name))]
    parts, language = _Parts(sources), language_model(own, folder, options)
    fields = aligners(parts, own, folder.config)
    towers: dict[str, Any] = {"image": vision_config(parts.owners["vision"], folder.config)}
    if parts.speech is not None:
        towers["speech"] = PrecomputedConfig(
            hidden_size=own.shape(parts.speech)[1], context_length=fields["speech"]["num_tokens"]
        )
    compose = x_llm(
        language.source,
        language.tokenizer,
        frames=folder.config.get("frames", 5),
        towers=towers,
        aligners=fields,
        faithful=options.faithful,
    )
    if parts.speech is None:
        del compose["modalities"]["speech"]
    weights = [(own, [*parts.rules(own), language.rule])]
    weights += [(tensors, parts.rules(tensors)) for tensors in sources[1:] if parts.needs(tensors)]
    return Plan(compose=compose, weights=weights + language.weights, notes=[*parts.notes, *language.notes])


class _Parts:
    """Which file each part of the system comes from: the first that has it.

    Args:
        sources: the checkpoint, then files of others.
    """

    _SIGNS = {
        "vision": ("visual_encoder.cls_token", "cls_token"),
        "norm": ("ln_vision.weight",),
        "qformer": ("Qformer.bert.embeddings.LayerNorm.weight",),
        "queries": ("query_tokens",),
        "projection": ("opt_proj.weight",),
    }

    def __init__(self, sources: list[Tensors]):
        self.own = sources[0]
        self.owners = {
            part: next((tensors for tensors in sources if any(sign in tensors for sign in signs)), None)
            for part, signs in self._SIGNS.items()
        }
        if missing := [part for part, owner in self.owners.items() if owner is None]:
            raise ValueError(
                f"{self.own.files[0].name} has no {', '.join(missing)}, which was frozen in that stage of training. Put "
                f"{_BLIP2[0]}.pth, or {_EVA[0]}.pth for the vision alone, beside it."
            )
        self.video = "video_query_tokens" in self.own
        # What reads features of speech first.
        firsts = ("pre_bert_proj.weight", "speech_feat_proj.weight")
        self.speech = next((name for name in firsts if name in self.own), None)
        self.notes = [] if self.video else ["Videos have the queries and the projection of images: none were trained."]

    def needs(self, tensors: Tensors) -> bool:
        return any(owner is tensors for owner in self.owners.values())

    def rules(self, tensors: Tensors) -> list[Rule]:
        rules = []
        for part, (pattern, made) in self._rules(tensors).items():
            rules += made if self.owners[part] is tensors else [Rule(pattern, reason=_OWN)]
        return [*rules, *_RULES] if tensors is self.own else [*rules, Rule(r".*", reason="not of X-LLM")]

    def _rules(self, tensors: Tensors) -> dict[str, tuple[str, list[Rule]]]:
        """Part -> what it is called, and where that goes."""
        prefix = "visual_encoder." if "visual_encoder.cls_token" in tensors else ""
        both = None if self.video else lambda tensor: (tensor, tensor.clone())

        def to(rest: str) -> Any:
            return f"image_aligner.{rest}" if both is None else (f"image_aligner.{rest}", f"video_aligner.{rest}")

        return {
            "vision": (r"visual_encoder\..*", _vision_rules(prefix, _depth(tensors, prefix))),
            "norm": (r"ln_vision\..*", [Rule(r"ln_vision\.(.*)", r"image_aligner.feature_norm.\1")]),
            "qformer": (r"Qformer\..*", _QFORMER),
            "queries": (r"query_tokens", [Rule(r"query_tokens", to("queries"), both)]),
            "projection": (r"opt_proj\..*", [Rule(r"opt_proj\.(.*)", to(r"projection.\1"), both)]),
        }


def _depth(tensors: Tensors, prefix: str) -> int:
    """Blocks that are used: EVA's own file has one more, which BLIP-2 cuts off."""
    return tensors.count(f"{prefix}blocks.{{}}.norm1.weight") - (not prefix)


def _vision_rules(prefix: str, depth: int) -> list[Rule]:
    begin = prefix.replace(".", r"\.")
    block, layer = rf"{begin}blocks\.(\d+)\.", r"image_tower.encoder.layers.\1."
    return [
        *([] if prefix else [Rule(rf"blocks\.{depth}\..*", reason="BLIP-2 cuts the last block off")]),
        Rule(rf"{begin}cls_token", "image_tower.embeddings.class_embedding"),
        Rule(rf"{begin}pos_embed", "image_tower.embeddings.position_embedding"),
        Rule(rf"{begin}patch_embed\.proj\.(.*)", r"image_tower.embeddings.patch_embedding.\1"),
        Rule(
            rf"{block}attn\.q_bias",
            rf"{layer}self_attn.qkv.bias",
            lambda query, value: torch.cat((query, torch.zeros_like(query), value)),
            also=(rf"{prefix}blocks.\1.attn.v_bias",),
        ),
        Rule(rf"{block}attn\.qkv\.weight", rf"{layer}self_attn.qkv.weight"),
        Rule(rf"{block}attn\.proj\.(.*)", rf"{layer}self_attn.projection.\2"),
        Rule(rf"{block}norm([12])\.(.*)", rf"{layer}layer_norm\2.\3"),
        Rule(rf"{block}mlp\.(.*)", rf"{layer}mlp.\2"),
        Rule(
            rf"{begin}(norm|fc_norm|head|mask_token|lm_head|rope).*",
            reason="behind the features, or of EVA's training",
        ),
    ]


_QFORMER = [
    Rule(r"Qformer\.bert\.embeddings\.LayerNorm\.(.*)", r"image_aligner.qformer_layers.layernorm.\1"),
    Rule(r"Qformer\.bert\.embeddings\.position_ids", reason=_COUNTED),
    Rule(
        r"Qformer\.bert\.(encoder\.layer\.\d+\.(?:cross)?attention)\.self\.(.*)",
        r"image_aligner.qformer_layers.\1.attention.\2",
    ),
    Rule(
        r"Qformer\.bert\.(encoder\.layer\.\d+\.(?:(?:cross)?attention|intermediate_query|output_query)\..*)",
        r"image_aligner.qformer_layers.\1",
    ),
    Rule(r"Qformer\..*", reason=_TEXT),
]
_RULES = [
    Rule(r"video_query_tokens", "video_aligner.queries"),
    Rule(r"video_proj\.(.*)", r"video_aligner.projection.\1"),
    Rule(r"pre_bert_proj\.(.*)", r"speech_aligner.bert_projection.\1"),
    Rule(r"(?:post_bert_proj|speech_feat_proj)\.(.*)", r"speech_aligner.projection.\1"),
    Rule(r"speech_bert_adaptor\.embeddings\.position_ids", reason=_COUNTED),
    Rule(r"speech_bert_adaptor\.(?:embeddings\.word_embeddings|pooler)\..*", reason=_WORDS),
    Rule(r"speech_bert_adaptor\.(.*)", r"speech_aligner.bert.\1"),
    Rule(r"opt_model\..*\.rotary_emb\.inv_freq", reason=_COUNTED),
]


# --- configs by shapes -----------------------------------------------------------------------------------------------


def vision_config(tensors: Tensors, config: dict[str, Any]) -> Blip2VisionConfig:
    prefix = "visual_encoder." if "visual_encoder.cls_token" in tensors else ""
    size, _, patch, _ = tensors.shape(f"{prefix}patch_embed.proj.weight")
    return Blip2VisionConfig(
        hidden_size=size,
        intermediate_size=tensors.shape(f"{prefix}blocks.0.mlp.fc1.weight")[0],
        num_hidden_layers=_depth(tensors, prefix),
        num_attention_heads=config.get("vit", {}).get("num_heads", max(1, size // 88)),
        image_size=patch * isqrt(tensors.shape(f"{prefix}pos_embed")[1] - 1),
        patch_size=patch,
    )


def aligners(parts: _Parts, own: Tensors, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Sizes of the interfaces."""
    tensors, layers = parts.owners["qformer"], "Qformer.bert.encoder.layer"
    _, count, size = parts.owners["queries"].shape("query_tokens")
    depth = tensors.count(f"{layers}.{{}}.attention.self.query.weight")
    cross = [i for i in range(1, depth) if f"{layers}.{i}.crossattention.self.query.weight" in tensors]
    image = {
        "num_tokens": count,
        "qformer_hidden_size": size,
        "depth": depth,
        "num_heads": config.get("qf", {}).get("num_attention_heads", max(1, size // 64)),
        "intermediate_size": tensors.shape(f"{layers}.0.intermediate_query.dense.weight")[0],
        "cross_attention_frequency": cross[0] if cross else depth,
    }
    fields = {"image": image, "speech": {"bert": "pre_bert_proj.weight" in own, "num_tokens": 20}}
    if parts.video:
        fields["video"] = {"num_tokens": own.shape("video_query_tokens")[1]}
    if "pre_bert_proj.weight" in own:
        bert = "speech_bert_adaptor"
        width, places = (
            own.shape("pre_bert_proj.weight")[0],
            own.shape(f"{bert}.embeddings.position_embeddings.weight"),
        )
        fields["speech"] |= {
            "num_tokens": min(20, places[0]),
            "bert_hidden_size": width,
            "depth": own.count(f"{bert}.encoder.layer.{{}}.attention.self.query.weight"),
            "num_heads": config.get("bert", {}).get("num_attention_heads", max(1, width // 64)),
            "intermediate_size": own.shape(f"{bert}.encoder.layer.0.intermediate.dense.weight")[0],
            "max_positions": places[0],
        }
    return fields


# --- the language model ----------------------------------------------------------------------------------------------


@dataclass
class _Language:
    """What `compose` takes, what becomes of `opt_model` in the checkpoint, and files of its own."""

    source: Any
    rule: Rule
    weights: list[tuple[Tensors, list[Rule]]] = field(default_factory=list)
    tokenizer: Any = None
    notes: list[str] = field(default_factory=list)


def language_model(own: Tensors, folder: Release, options: Options) -> _Language:
    """The one that the user chose, or the checkpoint's, or that of a folder of ChatGLM-6B beside it."""
    chosen, absent = options.language_model, Rule(r"opt_model\..*", reason=_OTHER)
    if chosen is not None and not _is_published(Path(chosen)):
        return _Language(chosen, absent, notes=["The interfaces were not trained with this language model."])
    if chosen is None and f"opt_model.{_WORD_TABLE}" in own:
        config = chatglm_config(own, "opt_model.", folder.config.get("glm", {}))
        return _Language(config, Rule(r"opt_model\.(.*)", r"language_model.\1"), notes=_NOTES)
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
    return _Language(config, absent, [(tensors, rules)], tokenizer, _NOTES)


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
