"""X-LLM's checkpoints, as its training writes them, with other files for the parts that they leave out.

None was released. A checkpoint of its training (`checkpoint_N.pth`) holds what was trained, and some of what was not;
BLIP-2's file, EVA's and ChatGLM-6B's folder beside it give the rest.
"""

import re
from typing import Any

import torch
from transformers import Blip2VisionConfig

from ...conversion import Options, Plan, Release, Rule, Tensors, register_conversion
from ...towers.precomputed import PrecomputedConfig
from . import x_llm
from .cif import CifConfig
from .convert_chatglm import language_model


_BLIP2 = ("blip2_pretrained_opt6.7b", "blip2_pretrained")
_EVA = ("eva_vit_g",)
# Frozen part that a checkpoint may leave out -> a tensor by which its file is known, and how its tensors are called.
_PARTS = {
    "vision": (("visual_encoder.cls_token", "cls_token"), r"visual_encoder\..*"),
    "norm": (("ln_vision.weight",), r"ln_vision\..*"),
    "qformer": (("Qformer.bert.embeddings.LayerNorm.weight",), r"Qformer\..*"),
    "queries": (("query_tokens",), r"query_tokens"),
    "projection": (("opt_proj.weight",), r"opt_proj\..*"),
}
# Parts that videos may have for themselves.
_VIDEO = {"queries": "video_query_tokens", "projection": "video_proj.weight"}
_COUNTED = "computed from the config"
_TEXT = "of the Q-Former's text branch, which X-LLM takes out"
_WORDS = "speech takes the place of words, and the pooler is not read"
_OWN = "the checkpoint has its own"
_OTHER = "of a speech interface without BERT; the checkpoint has one with BERT"
_BERT = "pre_bert_proj.weight"  # present if a BERT reads speech
# The speech interface without BERT, the original's option "fc".
_PLAIN = r"(?:asr_fc|(?:asr_fc\.)?speech_feat_proj)\.(weight|bias)"


# --- the system ------------------------------------------------------------------------------------------------------


@register_conversion(
    "x_llm",
    help="a checkpoint of X-LLM's training; beside it, for what it leaves out, BLIP-2's file, eva_vit_g.pth and a folder "
    "of ChatGLM-6B (or --language-model)",
)
def plan(release: Release, options: Options) -> Plan:
    """Without keys of a video interface, videos use the queries and projection of images, as in the original's loader.
    A checkpoint without a speech interface becomes a system without speech."""
    folder = release if release.folder.is_dir() else Release(release.folder.parent)
    checkpoints = sorted(folder.folder.glob("checkpoint*.pth"), key=lambda path: (len(path.stem), path.stem))
    own = release.open(".", "xllm", "x_llm", *(path.stem for path in reversed(checkpoints)))
    sources = [own, *(folder.open(name) for name in (*_BLIP2, *_EVA) if folder.has(name))]
    owners, language = _owners(sources), language_model(own, folder, options)
    fields = aligners(owners, own, folder.config)
    towers: dict[str, Any] = {"image": vision_config(owners["vision"], folder.config)}
    if (speech := _reads_speech(own)) is not None:
        towers["speech"] = PrecomputedConfig(
            hidden_size=own.shape(speech)[1], context_length=fields["speech"]["num_tokens"]
        )
    compose = x_llm(
        language.source,
        language.tokenizer,
        frames=folder.config.get("frames", 5),
        towers=towers,
        aligners=fields,
        faithful=options.faithful,
    )
    if speech is None:
        del compose["modalities"]["speech"]
    weights = [(own, [*_rules(own, own, owners), language.rule])]
    for other in sources[1:]:
        if any(owner is other for owner in owners.values()):
            weights.append((other, [*_rules(other, own, owners), Rule(r".*", reason="not of X-LLM")]))
    lacking = [part for part, name in _VIDEO.items() if name not in own]
    notes = [f"Videos have the {' and the '.join(lacking)} of images: none were trained."] if lacking else []
    return Plan(compose=compose, weights=weights + language.weights, notes=notes + language.notes)


def _owners(sources: list[Tensors]) -> dict[str, Tensors]:
    """Part -> the first file that has it, of the checkpoint and the other files."""
    owners: dict[str, Tensors] = {}
    for tensors in sources:
        for part, (signs, _) in _PARTS.items():
            if any(sign in tensors for sign in signs):
                owners.setdefault(part, tensors)
    if missing := [part for part in _PARTS if part not in owners]:
        raise ValueError(
            f"{sources[0].files[0].name} has no {', '.join(missing)}, which was frozen in that stage of training. Put "
            f"{_BLIP2[0]}.pth, or {_EVA[0]}.pth for the vision alone, beside it."
        )
    return owners


def _reads_speech(own: Tensors) -> str | None:
    """The first weight that features of speech are multiplied by; None if there is no such weight."""
    plain = (name for name in own if name.endswith("weight") and re.fullmatch(_PLAIN, name))
    return _BERT if _BERT in own else next(plain, None)


# --- weights ---------------------------------------------------------------------------------------------------------


def _rules(tensors: Tensors, own: Tensors, owners: dict[str, Tensors]) -> list[Rule]:
    """Rules for the tensors of a file, those first that another file replaces."""
    last, plain = tensors.count("blocks.{}.norm1.weight") - 1, Rule(_PLAIN, r"speech_aligner.projection.\1")
    return [
        *(Rule(_PARTS[part][1], reason=_OWN) for part, owner in owners.items() if owner is not tensors),
        Rule(rf"blocks\.{last}\..*", reason="BLIP-2 cuts the last block of EVA's file off"),
        *(_VISION if owners["vision"] is tensors else []),
        Rule(r"ln_vision\.(.*)", r"image_aligner.feature_norm.\1"),
        *_QFORMER,
        _image_rule(r"query_tokens", "queries", _VIDEO["queries"] in own),
        _image_rule(r"opt_proj\.(.*)", r"projection.\1", _VIDEO["projection"] in own),
        *_RULES,
        Rule(r"asr_fc\..*|speech_feat_proj\..*", reason=_OTHER) if _BERT in own else plain,
    ]


def _image_rule(source: str, target: str, video_has_own: bool) -> Rule:
    if video_has_own:
        return Rule(source, f"image_aligner.{target}")
    targets = (f"image_aligner.{target}", f"video_aligner.{target}")
    return Rule(source, targets, lambda tensor: (tensor, tensor.clone()))


# EVA's own file has no prefix.
_EYE = r"(?:visual_encoder\.)?"
_BLOCK, _LAYER = rf"{_EYE}blocks\.(\d+)\.", r"image_tower.encoder.layers.\1."
_VISION = [
    Rule(rf"{_EYE}cls_token", "image_tower.embeddings.class_embedding"),
    Rule(rf"{_EYE}pos_embed", "image_tower.embeddings.position_embedding"),
    Rule(rf"{_EYE}patch_embed\.proj\.(.*)", r"image_tower.embeddings.patch_embedding.\1"),
    Rule(
        r"((?:visual_encoder\.)?blocks\.(\d+)\.attn\.)q_bias",
        r"image_tower.encoder.layers.\2.self_attn.qkv.bias",
        lambda query, value: torch.cat((query, torch.zeros_like(query), value)),
        also=(r"\1v_bias",),
    ),
    Rule(rf"{_BLOCK}attn\.qkv\.weight", rf"{_LAYER}self_attn.qkv.weight"),
    Rule(rf"{_BLOCK}attn\.proj\.(.*)", rf"{_LAYER}self_attn.projection.\2"),
    Rule(rf"{_BLOCK}norm([12])\.(.*)", rf"{_LAYER}layer_norm\2.\3"),
    Rule(rf"{_BLOCK}mlp\.(.*)", rf"{_LAYER}mlp.\2"),
    Rule(rf"{_EYE}(norm|fc_norm|head|mask_token|lm_head|rope).*", reason="behind the features, or of EVA's training"),
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
    sizes = tensors.vit_sizes(f"{prefix}patch_embed.proj.weight", f"{prefix}pos_embed", f"{prefix}blocks")
    if not prefix:
        sizes["num_hidden_layers"] -= 1
    heads = config.get("vit", {}).get("num_heads", max(1, sizes["hidden_size"] // 88))
    return Blip2VisionConfig(**sizes, num_attention_heads=heads)


def aligners(owners: dict[str, Tensors], own: Tensors, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    tensors, layers = owners["qformer"], "Qformer.bert.encoder.layer"
    _, count, size = owners["queries"].shape("query_tokens")
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
    fields: dict[str, dict[str, Any]] = {"image": image, "speech": {"bert": _BERT in own, "num_tokens": 20}}
    if _VIDEO["queries"] in own:
        fields["video"] = {"num_tokens": own.shape(_VIDEO["queries"])[1]}
    if _BERT in own:
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
    """Sizes from the tensors, thresholds from the config. Default of a threshold: the code's."""
    tensors = release.open(".", "cif")
    rules = [
        Rule(r"(?:cif\.)?conv\.(.*)", r"conv.\1"),
        Rule(r"(?:cif\.)?dense_proj\.(.*)", r"dense.\1"),
        Rule(r"(?:cif\.)?weight_proj\.(.*)", r"weight.\1"),
        Rule(r"(?:cif\.)?cif_output_proj\.(.*)", r"projection.\1"),
    ]
    config, prefix = release.config, "cif." if "cif.weight_proj.weight" in tensors else ""
    width = tensors.shape(f"{prefix}weight_proj.weight")[1]
    conv, dense, output = (f"{prefix}{name}.weight" for name in ("conv", "dense_proj", "cif_output_proj"))
    cif = CifConfig(
        feature_size=width,
        hidden_size=tensors.shape(output)[0] if output in tensors else width,
        weights="conv" if conv in tensors else "dense" if dense in tensors else "linear",
        conv_width=tensors.shape(conv)[2] if conv in tensors else 3,
        conv_dropout=config.get("conv_cif_dropout", 0.0),
        threshold=config.get("cif_threshold", 0.99),
        scale_weights=config.get("apply_scaling", True),
        tail_threshold=config.get("tail_handling_firing_threshold", 0.5)
        if config.get("apply_tail_handling", True)
        else None,
        faithful=options.faithful,
    )
    return Plan(tower=cif, weights=[(tensors, rules)], licence="apache-2.0")
