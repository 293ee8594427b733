"""mPLUG-Owl's releases (llama-7b, bloomz-7b, llama-7b-video): one folder each, with the whole model in it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from ...conversion._base import Options, Plan, Rule, register_conversion
from ...conversion._llama import llama_config, llama_rules
from ...conversion._release import Release, Tensors
from .bloom import MplugOwlBloomConfig
from .preset import mplug_owl
from .tower import MplugOwlVisionConfig


_VISION = "vision_model."
_LAYER = r"(\d+)\."
_ENDS = r"\.(weight|bias)"
_MEDIA = {-1: "image", -2: "video"}  # ids of media in the release's inputs
_LICENCES = {"llama": "LLaMA's licence", "bloomz": "the BigScience RAIL licence"}


# --- rules ---------------------------------------------------------------------------------------------------------


def _split_heads(heads: int) -> Callable[[torch.Tensor], tuple[torch.Tensor, ...]]:
    """Query, key and value of a fused projection, whose rows are laid out as (heads, 3, head dim)."""

    def split(fused: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(part.flatten(0, 1) for part in fused.unflatten(0, (heads, 3, -1)).unbind(1))

    return split


def _first(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[0]


def _over_time(tensor: torch.Tensor) -> torch.Tensor:
    """A convolution over (time, 1, 1) as one over time."""
    return tensor[..., 0, 0] if tensor.ndim == 5 else tensor


def _as_linear(tensor: torch.Tensor) -> torch.Tensor:
    """A convolution of 1 x 1 x 1 as a linear layer."""
    return tensor.flatten(1) if tensor.ndim == 5 else tensor


def _vision_rules(heads: int) -> list[Rule]:
    theirs, ours = rf"vision_model\.encoder\.layers\.{_LAYER}", r"image_tower.layers.\1."
    split = tuple(rf"{ours}self_attn.{part}_proj.\2" for part in "qkv")
    return [
        Rule(r"vision_model\.embeddings\.cls_token", "image_tower.embeddings.class_embedding", torch.flatten),
        Rule(r"vision_model\.embeddings\.patch_embed\.weight", "image_tower.embeddings.patch_embedding.weight"),
        Rule(
            r"vision_model\.embeddings\.position_embedding", "image_tower.embeddings.position_embedding.weight", _first
        ),
        Rule(rf"vision_model\.embeddings\.pre_layernorm{_ENDS}", r"image_tower.pre_layernorm.\1"),
        Rule(rf"{theirs}self_attn\.query_key_value{_ENDS}", split, _split_heads(heads)),
        Rule(rf"{theirs}self_attn\.dense{_ENDS}", rf"{ours}self_attn.out_proj.\2"),
        Rule(rf"{theirs}input_layernorm{_ENDS}", rf"{ours}layer_norm1.\2"),
        Rule(rf"{theirs}post_attention_layernorm{_ENDS}", rf"{ours}layer_norm2.\2"),
        Rule(rf"{theirs}mlp\.(fc1|fc2){_ENDS}", rf"{ours}mlp.\2.\3"),
        Rule(rf"{theirs}temporal\.ln{_ENDS}", rf"{ours}temporal.norm.\2"),
        Rule(rf"{theirs}temporal\.(down_proj|up_proj){_ENDS}", rf"{ours}temporal.\2.\3", _as_linear),
        Rule(rf"{theirs}temporal\.conv{_ENDS}", rf"{ours}temporal.conv.\2", _over_time),
        Rule(rf"vision_model\.post_layernorm{_ENDS}", r"image_tower.post_layernorm.\1"),
    ]


def _abstractor_rules() -> list[Rule]:
    theirs, ours = rf"abstractor\.encoder\.layers\.{_LAYER}crossattention\.", r"image_aligner.layers.\1."
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
    return [
        Rule("query_tokens", "image_aligner.queries", _first),
        Rule("temporal_query_tokens", "image_aligner.temporal_queries", _first),
        Rule(rf"{theirs}(norm1|normk){_ENDS}", rf"{ours}attention.\2.\3"),
        *(Rule(rf"{theirs}attention\.{old}{_ENDS}", rf"{ours}attention.{new}.\2") for old, new in names.items()),
        Rule(rf"{theirs}output\.out_proj{_ENDS}", rf"{ours}attention.out_proj.\2"),
        Rule(rf"{theirs}output\.norm2{_ENDS}", rf"{ours}norm2.\2"),
        Rule(rf"{theirs}output\.mlp\.(w1|w2|w3|ffn_ln){_ENDS}", rf"{ours}\2.\3"),
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


# --- configs, by shapes where they tell ----------------------------------------------------------------------------


def _vision_config(tensors: Tensors, given: Mapping[str, Any]) -> MplugOwlVisionConfig:
    dim, channels, patch, _ = tensors.shape(f"{_VISION}embeddings.patch_embed.weight")
    patches = tensors.shape(f"{_VISION}embeddings.position_embedding")[1] - 1
    return MplugOwlVisionConfig(
        hidden_size=dim,
        num_channels=channels,
        patch_size=patch,
        image_size=math.isqrt(patches) * patch,
        intermediate_size=tensors.shape(f"{_VISION}encoder.layers.0.mlp.fc1.weight")[0],
        num_hidden_layers=tensors.count(f"{_VISION}encoder.layers.{{}}.mlp.fc1.weight"),
        num_attention_heads=given.get("num_attention_heads", dim // 64),
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


# --- what the recordings hold --------------------------------------------------------------------------------------


def _placeholders(model: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """Ids as ours: the release has negative ones for media."""
    for theirs, modality in _MEDIA.items():
        input_ids = input_ids.masked_fill(input_ids == theirs, model.config.modalities[modality]["token_id"])
    return input_ids


def _video(pixels: torch.Tensor) -> torch.Tensor:
    """`(items, frames, channels, height, width)`; the release has channels before frames."""
    return pixels.transpose(1, 2)


def _replay_vision(model: Any, name: str, pixels: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    tower, aligner, encoded = model.tower("image"), model.aligner("image"), []
    output = tower(pixels, output_hidden_states=True)
    frames = pixels.shape[1] if pixels.ndim == 5 else 1

    def shaped(states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(1, (frames, -1)) if tower.config.temporal else states

    yield f"{name}.last_hidden_state", shaped(output.last_hidden_state)
    yield f"{name}.pooler_output", output.pooler_output
    for i, states in enumerate(output.hidden_states):
        yield f"{name}.hidden_states.{i}", shaped(states)
    handle = aligner.layers[-1].register_forward_hook(lambda module, args, states: encoded.append(states))
    tokens = aligner(output.last_hidden_state.unsqueeze(1))
    handle.remove()
    yield f"{name}.abstractor_encoder", encoded[0]
    yield f"{name}.abstractor", tokens


def _run(model: Any, arguments: dict[str, Any]) -> tuple[torch.Tensor, Any]:
    """What the language model is given, `(batch, sequence, hidden)`, and the output."""
    seen: list[torch.Tensor] = []
    handle = model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    output = model(**arguments)
    handle.remove()
    return seen[0], output


def _replay_forward(model: Any, rows: int, inputs: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    labels = inputs["fwd.labels"].clone()
    learned = inputs["fwd.non_padding_mask"] * inputs["fwd.non_media_mask"] * inputs["fwd.prompt_mask"]
    labels[:, 1:][learned != 1] = -100
    yield "fwd.labels_effective", labels
    arguments = {
        "input_ids": _placeholders(model, inputs["fwd.input_ids"]),
        "attention_mask": inputs["fwd.attention_mask"],
        "pixel_values": inputs["pixel_values"],
    }
    if "position_ids" in inspect.signature(model.language_model.forward).parameters:
        # The release counts padding on the right, too, whose logits are recorded.
        arguments["position_ids"] = torch.arange(labels.shape[1]).expand(labels.shape)
    embeds, output = _run(model, arguments)
    yield "fwd.inputs_embeds", embeds
    logits = output.logits[..., :rows]
    yield "fwd.logits", logits
    yield "fwd.loss", model.loss_function(logits, labels, vocab_size=rows)


def _replay_generation(
    model: Any, rows: int, inputs: Mapping[str, torch.Tensor]
) -> Iterator[tuple[str, torch.Tensor]]:
    theirs = inputs["gen.input_ids"]
    mask = torch.where(theirs < 0, torch.ones(()), inputs["gen.attention_mask"].float())
    yield "gen.attention_mask_eff", mask
    arguments = {"input_ids": _placeholders(model, theirs), "attention_mask": mask.long()}
    if "gen.pixel_values" in inputs:
        arguments["pixel_values"] = inputs["gen.pixel_values"]
    if "gen.video_pixel_values" in inputs:
        arguments["pixel_values_videos"] = _video(inputs["gen.video_pixel_values"])
    embeds, output = _run(model, arguments)
    yield "gen.inputs_embeds", embeds
    yield "gen.logits", output.logits[..., :rows]
    answers = model.generate(**arguments, do_sample=False, max_new_tokens=8, eos_token_id=2, pad_token_id=0)
    yield "gen.greedy", answers[:, theirs.shape[1] :]


@torch.no_grad()
def replay(
    model: Any, config: Mapping[str, Any], inputs: Mapping[str, torch.Tensor]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every recorded tensor, by the converted model."""
    rows = config["text_config"]["vocab_size"]  # ours has more, for placeholders
    yield from _replay_vision(model, "vision_image", inputs["pixel_values"])
    if "gen.video_pixel_values" in inputs:
        yield from _replay_vision(model, "vision_video", _video(inputs["gen.video_pixel_values"]))
    yield from _replay_forward(model, rows, inputs)
    yield from _replay_generation(model, rows, inputs)


@register_conversion(
    "mplug_owl", help="a folder with config.json and pytorch_model or model, sharded or not", replay=replay
)
def plan(release: Release, options: Options) -> Plan:
    """Which of the three it is, and all sizes that shapes tell, is read from the tensors; the rest from config.json."""
    tensors, config = release.open("."), release.config
    if "query_tokens" not in tensors:
        raise ValueError(
            f"{release.folder} has no query_tokens: it is no release of mPLUG-Owl's first version (or of v0)."
        )
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
        weights=[(tensors, [*_vision_rules(vision.num_attention_heads), *_abstractor_rules(), *rules])],
        licence="other",
        notes=[
            "The release is tagged Apache-2.0; the weights of its language model are under "
            f"{_LICENCES['bloomz' if bloomz else 'llama']}."
        ],
    )
