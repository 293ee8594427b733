"""X-LLM's checkpoints, as its training writes them, and files of others for what they leave out.

None was released. A checkpoint of its training (`checkpoint_N.pth`) holds what was trained, and some of what was not;
BLIP-2's file, EVA's and ChatGLM-6B's folder beside it give the rest.
"""

from __future__ import annotations

import re
from math import isqrt
from typing import Any

import torch
from transformers import Blip2VisionConfig

from ...conversion import Options, Plan, Release, Rule, Tensors, register_conversion
from ...towers import PrecomputedConfig
from .cif import CifConfig
from .convert_chatglm import language_model
from .preset import x_llm


# Where a checkpoint leaves parts out that were frozen, they are in files of others.
_BLIP2 = ("blip2_pretrained_opt6.7b", "blip2_pretrained")
_EVA = ("eva_vit_g",)
_COUNTED = "computed from the config"
_TEXT = "of the Q-Former's text branch, which X-LLM takes out"
_WORDS = "speech takes the place of words, and the pooler is not read"
_OWN = "the checkpoint has its own"
_OTHER = "of a speech interface without BERT; the checkpoint has one with BERT"
_BERT = "pre_bert_proj.weight"  # is there, if speech passes a BERT
# The speech interface without BERT, the original's option "fc".
_PLAIN = r"(?:asr_fc|(?:asr_fc\.)?speech_feat_proj)\.(weight|bias)"


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
        self.queries, self.projection = ("video_query_tokens" in self.own, "video_proj.weight" in self.own)
        plain = (name for name in self.own if name.endswith("weight") and re.fullmatch(_PLAIN, name))
        self.bert = _BERT in self.own
        # What reads features of speech first.
        self.speech = _BERT if self.bert else next(plain, None)
        lacking = [name for name in ("queries", "projection") if not getattr(self, name)]
        self.notes = [f"Videos have the {' and the '.join(lacking)} of images: none were trained."] if lacking else []

    def needs(self, tensors: Tensors) -> bool:
        return any(owner is tensors for owner in self.owners.values())

    def rules(self, tensors: Tensors) -> list[Rule]:
        rules = []
        for part, (pattern, made) in self._rules(tensors).items():
            rules += made if self.owners[part] is tensors else [Rule(pattern, reason=_OWN)]
        if tensors is not self.own:
            return [*rules, Rule(r".*", reason="not of X-LLM")]
        plain = Rule(_PLAIN, r"speech_aligner.projection.\1")
        return [*rules, *_RULES, Rule(r"asr_fc\..*|speech_feat_proj\..*", reason=_OTHER) if self.bert else plain]

    def _rules(self, tensors: Tensors) -> dict[str, tuple[str, list[Rule]]]:
        """Part -> what it is called, and where that goes."""
        prefix = "visual_encoder." if "visual_encoder.cls_token" in tensors else ""
        return {
            "vision": (r"visual_encoder\..*", _vision_rules(prefix, _depth(tensors, prefix))),
            "norm": (r"ln_vision\..*", [Rule(r"ln_vision\.(.*)", r"image_aligner.feature_norm.\1")]),
            "qformer": (r"Qformer\..*", _QFORMER),
            "queries": (r"query_tokens", [_image_rule(r"query_tokens", "queries", self.queries)]),
            "projection": (r"opt_proj\..*", [_image_rule(r"opt_proj\.(.*)", r"projection.\1", self.projection)]),
        }


def _image_rule(source: str, target: str, video_has_own: bool) -> Rule:
    """For what videos share with images, unless they have their own."""
    if video_has_own:
        return Rule(source, f"image_aligner.{target}")
    targets = (f"image_aligner.{target}", f"video_aligner.{target}")
    return Rule(source, targets, lambda tensor: (tensor, tensor.clone()))


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
    Rule(r"post_bert_proj\.(.*)", r"speech_aligner.projection.\1"),
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
    fields: dict[str, dict[str, Any]] = {"image": image, "speech": {"bert": parts.bert, "num_tokens": 20}}
    if parts.queries:
        fields["video"] = {"num_tokens": own.shape("video_query_tokens")[1]}
    if parts.bert:
        bert, width = "speech_bert_adaptor", own.shape(_BERT)[0]
        places = own.shape(f"{bert}.embeddings.position_embeddings.weight")[0]
        fields["speech"] |= {
            "num_tokens": min(20, places),
            "bert_hidden_size": width,
            "depth": own.count(f"{bert}.encoder.layer.{{}}.attention.self.query.weight"),
            "num_heads": config.get("bert", {}).get("num_attention_heads", max(1, width // 64)),
            "intermediate_size": own.shape(f"{bert}.encoder.layer.0.intermediate.dense.weight")[0],
            "max_positions": places,
        }
    return fields


# --- the CIF of a speech encoder ---------------------------------------------------------------------------------------


@register_conversion("cif", help="weights of a CifMiddleware, and its settings in config.json")
def cif_plan(release: Release, options: Options) -> Plan:
    tensors = release.open(".", "cif")
    rules = [
        Rule(r"(?:cif\.)?conv\.(.*)", r"conv.\1"),
        Rule(r"(?:cif\.)?dense_proj\.(.*)", r"dense.\1"),
        Rule(r"(?:cif\.)?weight_proj\.(.*)", r"weight.\1"),
        Rule(r"(?:cif\.)?cif_output_proj\.(.*)", r"projection.\1"),
    ]
    config = cif_config(tensors, release.config, options.faithful)
    return Plan(tower=config, weights=[(tensors, rules)], licence="apache-2.0")


def cif_config(tensors: Tensors, config: dict[str, Any], faithful: bool = False) -> CifConfig:
    """Sizes by the tensors, thresholds by the config; those that it does not say, as the code has them."""
    names = {name.removeprefix("cif."): name for name in tensors}
    width = tensors.shape(names["weight_proj.weight"])[1]
    kind = next(
        (kind for kind, name in (("conv", "conv.weight"), ("dense", "dense_proj.weight")) if name in names), "linear"
    )
    tails = config.get("apply_tail_handling", True)
    return CifConfig(
        feature_size=width,
        hidden_size=tensors.shape(names["cif_output_proj.weight"])[0] if "cif_output_proj.weight" in names else width,
        weights=kind,
        conv_width=tensors.shape(names["conv.weight"])[2] if kind == "conv" else 3,
        conv_dropout=config.get("conv_cif_dropout", 0.0),
        threshold=config.get("cif_threshold", 0.99),
        scale_weights=config.get("apply_scaling", True),
        tail_threshold=config.get("tail_handling_firing_threshold", 0.5) if tails else None,
        faithful=faithful,
    )
