"""Macaw-LLM's release: one file with two whole CLIPs, a whole Whisper, the language model and the aligners."""

from typing import Any

from transformers import CLIPVisionConfig, WhisperConfig

from ...conversion import (
    Options,
    Plan,
    Release,
    Rule,
    Tensors,
    find_tokenizer,
    llama_config,
    llama_rules,
    register_conversion,
)
from . import MODALITY_NAMES, modalities, prompts, with_delimiters


_ENDS = {"bos_token_id": 1, "eos_token_id": 2}
_TWO_SIDED = "of a half that the original does not use"
_BEFORE = "made by the code of before, which the forward pass of this graph does not use"
_NEVER = "used by no forward pass of the original"


@register_conversion(
    "macaw_llm",
    help="pytorch_model.bin and config.json of Macaw-LLM, with its tokenizer (or --tokenizer)",
)
def plan(release: Release, options: Options) -> Plan:
    """The graph is the current one if the file has its self-attention over all frames, else that of the release."""
    if options.language_model is not None:
        raise ValueError("Macaw-LLM's release brings its own language model, trained throughout; no other fits it.")
    tensors = release.open(".", "pytorch_model", "weights")
    graph = "current" if "video_long_self_attention.in_proj_weight" in tensors else "release"
    rows = tensors.shape("llm.model.embed_tokens.weight")[0]
    towers = {
        "image": vision_config(tensors, "image", release.config),
        "video": {"tower": vision_config(tensors, "video", release.config), **_frames(tensors, release.config)},
        "audio": whisper_config(tensors, release.config),
    }
    arguments = {
        # Early configs of LLaMA have other begin and end ids than its tokenizer.
        "language_model": llama_config(tensors, "llm.", {**_part(release.config, "llm_config"), **_ENDS}),
        "modalities": modalities(graph, towers, {"attended_rows": rows, **aligners(tensors, release.config, graph)}),
        **prompts(options.faithful),
    }
    if (tokenizer := find_tokenizer(release, options)) is not None:
        arguments["tokenizer"] = with_delimiters(tokenizer, None)
    notes = [
        f"The graph is that of the {'code of July 2023' if graph == 'current' else 'release of June 2023'}.",
        "LLaMA's licence holds for the language model; the code is under Apache-2.0.",
    ]
    return Plan(compose=arguments, weights=[(tensors, rules(graph))], notes=notes)


# --- configs, sizes by the tensors -----------------------------------------------------------------------------------


def _part(config: dict[str, Any], *names: str) -> dict[str, Any]:
    """The fields of a part of the release's config that describe its architecture."""
    found = next((config[name] for name in names if isinstance(config.get(name), dict)), {})
    strange = ("_name_or_path", "architectures", "model_type", "torch_dtype", "transformers_version")
    return {key: value for key, value in found.items() if key not in strange}


def _frames(tensors: Tensors, config: dict[str, Any]) -> dict[str, int]:
    """Frames of a video, counted by the embeddings of their positions, which only one graph has."""
    if (table := "temporal_position_embeddings.weight") in tensors:
        return {"num_frames": tensors.shape(table)[0]}
    told = {**config, **config.get("mm_config", {})}
    return {"num_frames": told["n_frames"]} if "n_frames" in told else {}


def vision_config(tensors: Tensors, name: str, config: dict[str, Any]) -> CLIPVisionConfig:
    given = _part(_part(config, "image_config", "clip_config"), "vision_config")
    vision = f"{name}_encoder.vision_model"
    patches, positions = (f"{vision}.embeddings.{one}_embedding.weight" for one in ("patch", "position"))
    sizes = tensors.vit_sizes(patches, positions, f"{vision}.encoder.layers")
    return CLIPVisionConfig(**{"num_attention_heads": max(1, sizes["hidden_size"] // 64), **given, **sizes})


def whisper_config(tensors: Tensors, config: dict[str, Any]) -> WhisperConfig:
    given = _part(config, "audio_config", "whisper_config")
    size, bins, _ = tensors.shape("audio_encoder.encoder.conv1.weight")
    sizes = {
        "d_model": size,
        "num_mel_bins": bins,
        "max_source_positions": tensors.shape("audio_encoder.encoder.embed_positions.weight")[0],
        "encoder_layers": tensors.count("audio_encoder.encoder.layers.{}.fc1.weight"),
        "encoder_ffn_dim": tensors.shape("audio_encoder.encoder.layers.0.fc1.weight")[0],
        "encoder_attention_heads": given.get("encoder_attention_heads", max(1, size // 64)),
    }
    return WhisperConfig(**{**given, **sizes})


def aligners(tensors: Tensors, config: dict[str, Any], graph: str) -> dict[str, Any]:
    """Number of heads. No shape shows it: 8, unless the config says otherwise."""
    config = {**config, **config.get("mm_config", {})}
    heads = config.get("attention_heads", 8)
    fields: dict[str, Any] = {"attention_heads": heads, "align_heads": heads * (2 if graph == "current" else 1)}
    strides = {"image": 36, "audio": 220, "video": 30}
    for name in MODALITY_NAMES:
        fields[name] = {}
        if name != "audio":
            fields[name]["projection_size"] = tensors.shape(f"{name}_encoder.visual_projection.weight")[0]
        if (graph, name) != ("release", "video"):
            fields[name]["conv_kernel"] = tensors.shape(f"project_{name}.weight")[2]
            fields[name]["conv_stride"] = config.get(f"{name}_conv_stride", strides[name])
    return fields


# --- weights ---------------------------------------------------------------------------------------------------------


def rules(graph: str) -> list[Rule]:
    current = graph == "current"
    attentions = [
        Rule(r"video_long_self_attention\.(.*)", r"video_aligner.self_attention.\1"),
        Rule(r"temporal_(self_attention|position_embeddings)\..*", reason=_BEFORE),
        Rule(r"(image|audio|video)_align_attention\.(.*)", r"\1_aligner.align_attention.\2"),
    ]
    if not current:
        attentions = [
            Rule(r"temporal_self_attention\.(.*)", r"video_aligner.self_attention.\1"),
            Rule(r"temporal_position_embeddings\.weight", "video_aligner.position_embeddings"),
            Rule(r"video_align_attention\.(.*)", r"video_aligner.align_attention.\1"),
            Rule(r"(image|audio)_align_attention\..*", reason="all modalities went through the video's attention"),
            Rule(r"project_video\..*", reason="videos are not shortened in this graph"),
        ]
    return [
        *attentions,
        Rule(r"project_(image|audio|video)\.(.*)", r"\1_aligner.conv.\2"),
        Rule(r"transform_(image|audio|video)_to_hidden\.(.*)", r"\1_aligner.projection.\2"),
        Rule(r"(image|video)_encoder\.visual_projection\.weight", r"\1_aligner.visual_projection.weight"),
        Rule(r"(image|video)_encoder\.vision_model\.embeddings\.position_ids", reason="counted, not learned"),
        Rule(r"(image|video)_encoder\.vision_model\.(.*)", r"\1_tower.\2"),
        Rule(r"(image|video)_encoder\.(text_model|text_projection|logit_scale).*", reason=_TWO_SIDED),
        Rule(r"audio_encoder\.encoder\.(.*)", r"audio_tower.\1"),
        Rule(r"audio_encoder\.(decoder|proj_out)\..*", reason=_TWO_SIDED),
        *llama_rules(r"llm\."),
        Rule(r"logit_scale|layer_norm\..*", reason=_NEVER),
    ]
