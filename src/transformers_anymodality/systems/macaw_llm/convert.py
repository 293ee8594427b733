"""Macaw-LLM's release: one file with two whole CLIPs, a whole Whisper, the language model and what aligns them."""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt
from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionConfig, WhisperConfig

from ...conversion._base import Options, Plan, Rule, register_conversion
from ...conversion._convert import find_tokenizer
from ...conversion._llama import llama_config, llama_rules
from ...conversion._release import Release, Tensors
from .preset import SENSES, chat_template, modalities, with_delimiters


_ENDS = {"bos_token_id": 1, "eos_token_id": 2}
_TWO_SIDED = "of a half that the original does not use"
_BEFORE = "made by the code of before, which the forward pass of this graph does not use"
_NEVER = "used by no forward pass of the original"


@torch.no_grad()
def replay(model: Any, config: dict[str, Any], inputs: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """What the original was recorded to give: each step of the three senses, then prompts with all, one and none."""
    media = {name: inputs[f"{name}s"] for name in SENSES if f"{name}s" in inputs}
    for name, values in media.items():
        yield from _steps(model, name, values)
    rows = config["llm_config"]["vocab_size"]
    for case, senses in [("all", tuple(media)), *((name, (name,)) for name in media), ("text", ())]:
        ids, mask, labels = _prompt(model, inputs, senses)
        given = {next(iter(model.config.modalities[name]["inputs"])): media[name] for name in senses}
        encoded, _ = model.encode_media(dict(given), {})
        yield f"{case}.inputs_embeds", model.embed(ids, None, encoded)[0]
        yield f"{case}.attention_mask", mask
        yield f"{case}.labels", labels
        # The original counts padding as positions.
        places = torch.arange(ids.shape[1]).expand(ids.shape)
        logits = model(ids, attention_mask=mask, position_ids=places, **given).logits[..., :rows]
        yield f"{case}.logits", logits
        yield f"{case}.loss", nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        if case == "all":
            yield f"{case}.greedy", _greedy(model, config, ids, given)


def _steps(model: Any, name: str, values: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """A sense's features, and what each step of its aligner makes of them."""
    aligner, caught = model.aligner(name), {}

    def catch(step: str):
        return lambda module, args, output: caught.update({step: (args[0], output)})

    steps = {"conv": aligner.conv, "hidden": aligner.projection, "aligned": aligner.align_attention}
    handles = [module.register_forward_hook(catch(step)) for step, module in steps.items() if module is not None]
    model.get_modality_features(name, values)
    for handle in handles:
        handle.remove()
    hidden = caught["hidden"][1]
    if "conv" in caught:
        before, after = caught["conv"]
        yield f"{name}_features", before.transpose(1, 2)
        yield f"{name}_conv", after.transpose(1, 2)
    yield f"{name}_hidden", hidden
    yield f"{name}_aligned", caught["aligned"][1].view_as(hidden)


def _prompt(model: Any, inputs: dict[str, torch.Tensor], senses: tuple[str, ...]) -> tuple[torch.Tensor, ...]:
    """Ids, mask and labels of the recorded texts, with media behind their first token; mask and labels grow in front, as
    the original's do."""
    text, pieces = inputs["input_ids"], [inputs["input_ids"][:, :1]]
    for name in senses:
        row = model.config.modalities[name]
        count = model.config.aligner_config(name).count_tokens(row["num_frames"], row["feature_length"])
        pieces += [inputs[f"{name}_starts"][:, None], text.new_full((len(text), count), row["token_id"])]
        pieces += [inputs[f"{name}_ends"][:, None]]
    ids = torch.cat([*pieces, text[:, 1:]], dim=1)
    front = (len(text), ids.shape[1] - text.shape[1])
    mask = torch.cat([text.new_ones(front), inputs["attention_mask"]], dim=1)
    return ids, mask, torch.cat([text.new_full(front, -100), inputs["labels"]], dim=1)


def _greedy(model: Any, config: dict[str, Any], ids: torch.Tensor, media: dict[str, torch.Tensor]) -> torch.Tensor:
    """Eight tokens; padding is attended, as in the original."""
    padding = config["llm_config"].get("pad_token_id") or 0
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": 2, "pad_token_id": padding}
    output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **media, **settings)
    return output[:, ids.shape[1] :]


@register_conversion(
    "macaw_llm",
    help="pytorch_model.bin and config.json of Macaw-LLM, with its tokenizer (or --tokenizer)",
    replay=replay,
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
        "video": vision_config(tensors, "video", release.config),
        "audio": whisper_config(tensors, release.config),
    }
    frames = tensors.shape("temporal_position_embeddings.weight")[0]
    towers["video"] = {"tower": towers["video"], "num_frames": frames}
    arguments = {
        # Configs of LLaMA's time say other ids for begin and end than its tokenizer.
        "language_model": llama_config(tensors, "llm.", {**_part(release.config, "llm_config"), **_ENDS}),
        "modalities": modalities(graph, towers, {"attended_rows": rows, **aligners(tensors, release.config, graph)}),
        "chat_template": chat_template(options.faithful),
        "text": {"piecewise": True},
        "generation": {"do_sample": False, "max_new_tokens": 128},
    }
    if (tokenizer := find_tokenizer(release, options)) is not None:
        arguments["tokenizer"] = with_delimiters(tokenizer, None)
    notes = [
        f"The graph is that of the {'code of July 2023' if graph == 'current' else 'release of June 2023'}.",
        "LLaMA's licence holds for the language model; the code is under Apache-2.0.",
    ]
    return Plan(compose=arguments, weights=[(tensors, rules(graph))], notes=notes)


# --- configs ---------------------------------------------------------------------------------------------------------


def _part(config: dict[str, Any], *names: str) -> dict[str, Any]:
    """A part of the release's config, without what is not the architecture."""
    found = next((config[name] for name in names if isinstance(config.get(name), dict)), {})
    strange = ("_name_or_path", "architectures", "model_type", "torch_dtype", "transformers_version")
    return {key: value for key, value in found.items() if key not in strange}


def vision_config(tensors: Tensors, sense: str, config: dict[str, Any]) -> CLIPVisionConfig:
    """Of one of the two CLIPs; sizes by the tensors."""
    given = _part(_part(config, "image_config", "clip_config"), "vision_config")
    vision = f"{sense}_encoder.vision_model"
    size, _, patch, _ = tensors.shape(f"{vision}.embeddings.patch_embedding.weight")
    places = tensors.shape(f"{vision}.embeddings.position_embedding.weight")[0] - 1
    sizes = {
        "hidden_size": size,
        "patch_size": patch,
        "image_size": patch * isqrt(places),
        "num_hidden_layers": tensors.count(f"{vision}.encoder.layers.{{}}.mlp.fc1.weight"),
        "intermediate_size": tensors.shape(f"{vision}.encoder.layers.0.mlp.fc1.weight")[0],
        "num_attention_heads": given.get("num_attention_heads", max(1, size // 64)),
    }
    return CLIPVisionConfig(**{**given, **sizes})


def whisper_config(tensors: Tensors, config: dict[str, Any]) -> WhisperConfig:
    """Of the encoder; sizes by the tensors."""
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
    """Settings of the three aligners. Heads show in no shape: 8 unless the config says otherwise."""
    config = {**config, **config.get("mm_config", {})}
    heads = config.get("attention_heads", 8)
    fields: dict[str, Any] = {"attention_heads": heads, "align_heads": heads * (2 if graph == "current" else 1)}
    strides = {"image": 36, "audio": 220, "video": 30}
    for name in SENSES:
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
            Rule(r"(image|audio)_align_attention\..*", reason="all senses went through the video's attention"),
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
