"""Composing: a language model, a tower and an aligner per modality become one model and its processor."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..model.configuration import AnyModalityConfig
from ..model.distributed import built_whole
from ..model.language_model import check_growth, grow_embeddings, reads_input_ids
from ..model.light_checkpoint import source_of
from ..model.modeling import AnyModalityForCausalLM
from ..model.quantization import adopt_quantization
from ..processing.chat import extend_template
from ..processing.media_inputs import ModalityInputs
from ..processing.processor import AnyModalityProcessor
from ..utils.hub import HUB_KWARGS
from ..utils.registry import did_you_mean
from ..utils.upstream import name_or_path, name_special_token
from .find import add_aligner, add_tower, check_attributes
from .part import Part, borrows, parse
from .probe import drop_unread_weights, probe


_HUB_KWARGS = frozenset((*HUB_KWARGS, "code_revision", "trust_remote_code"))  # for everything that is loaded
_ROLES = {"bos": "begin", "eos": "end", "pad": "padding", "unk": "unknown"}


@built_whole()
def compose(
    language_model: str | os.PathLike | PreTrainedConfig | PreTrainedModel,
    modalities: dict[str, Any],
    tokenizer: str | os.PathLike | PreTrainedTokenizerBase | None = None,
    *,
    chat_template: str | None = None,
    text: dict[str, Any] | None = None,
    generation: dict[str, Any] | None = None,
    dtype: str | torch.dtype | None = None,
    **hub_kwargs,
) -> tuple[AnyModalityForCausalLM, AnyModalityProcessor]:
    """Gives a language model senses.

    Loaded models that are given become the composite's own and may be changed: embeddings grow by the placeholders,
    and parts of towers that no one reads (poolers, final norms) are taken out.

    Args:
        language_model: Hub id, local path, config (random weights) or loaded model.
        modalities: modality -> its tower alone, or a dict with

            - `tower`: Hub id, local path, config, loaded model, or the name of a modality whose tower it borrows;
            - `aligner`: name of a registered aligner (default "perceiver_resampler"), a dict `{"type": name, ...}`
              with its config's fields, an aligner config or module, or a modality whose aligner it borrows;
            - `num_tokens`: tokens per medium; the aligner's own default if left out;
            - `processor`: the tower's image processor, feature extractor, ...; found with the tower if left out;
            - `select_layer`: read this hidden state and build no layer behind it (-2 as LLaVA does);
            - `select_feature`: "all", "patches" (no class token) or "pooled";
            - `per_frame`: whether the tower reads a video's frames one by one; found out if left out;
            - `token`: placeholder token, `<name>` if left out; `revision`: of the tower on the Hub;
            - the options of its `ModalitySpec` (`num_frames`, `sampling_rate`, `seconds`, `value_range`, ...).
        tokenizer: found with the language model if left out.
        chat_template: for a tokenizer without, or instead of its own.
        text: how the processor deals with text, see `AnyModalityProcessor`.
        generation: fields of the generation config, instead of the language model's own.
        dtype: for the language model and towers loaded here; as their checkpoints say if left out.
        hub_kwargs: `token`, `cache_dir`, `local_files_only`, `trust_remote_code`, ... for everything that is loaded.
            A part that is loaded with more (`device_map`, `quantization_config`), load yourself, and give the model.

    Returns:
        The model, in eval mode, with everything as trainable as it was; and its processor.

    Raises:
        ValueError, TypeError: parts that do not fit together, or settings that make no sense; nothing was changed.
    """
    _check_arguments(modalities, hub_kwargs)
    load = {**hub_kwargs, **({} if dtype is None else {"dtype": dtype})}
    parts = [parse(name, value, modalities) for name, value in sorted(modalities.items())]
    by_name = {part.name: part for part in parts}
    _check_one_owner(parts)
    language = _language_model(language_model, load)
    tokenizer = _tokenizer(tokenizer, language, hub_kwargs)
    tokens = {
        part.name: part.spec.token if part.settings.get("token") is None else part.settings["token"] for part in parts
    }
    _check_tokens(tokenizer, tokens)
    hidden = language.get_input_embeddings().weight.shape[-1]
    for part in sorted(parts, key=borrows("tower", by_name)):
        add_tower(part, by_name, load)
        probe(part)
    check_attributes(parts)
    for part in sorted(parts, key=borrows("aligner", by_name)):
        add_aligner(part, by_name, hidden)
    reads_ids = reads_input_ids(language)
    _add_tokens(tokenizer, tokens)
    beside = check_growth(language, len(tokenizer))
    # All that can be refused was; only now is what was given changed.
    drop_unread_weights(parts)
    grow_embeddings(language, len(tokenizer), beside)
    for part in parts:
        part.row["token_id"] = tokenizer.convert_tokens_to_ids(tokens[part.name])
    model = _model(language, parts, reads_ids)
    _set_generation(model.generation_config, tokenizer, generation or {}, text or {})
    model.part_sources = _sources(language_model, parts, load)
    template = extend_template(chat_template or tokenizer.chat_template, tokens)
    return model, _processor(tokenizer, parts, tokens, template, text)


def _check_arguments(modalities: Any, hub_kwargs: dict[str, Any]) -> None:
    if not isinstance(modalities, Mapping):
        raise TypeError(f"modalities must be a dict, modality -> tower or settings, not {type(modalities).__name__}.")
    if unknown := sorted(set(hub_kwargs) - _HUB_KWARGS):
        hint = did_you_mean(unknown[0], {*_HUB_KWARGS, *inspect.signature(compose).parameters})
        raise TypeError(
            f"Unknown keyword arguments {unknown}.{hint} A part that is loaded in a special way, load it yourself and "
            "give the model."
        )


# --- the language model and its tokenizer --------------------------------------------------------------------------


def _language_model(source: Any, load: dict[str, Any]) -> PreTrainedModel:
    if isinstance(source, PreTrainedModel):
        if source.get_output_embeddings() is None:
            raise ValueError(f"{type(source).__name__} has no language-model head; pass the causal language model.")
        return source
    if isinstance(source, PreTrainedConfig):
        return AutoModelForCausalLM.from_config(source).eval()
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            f"A language model is a Hub id, a local path, a config or a model, not {type(source).__name__}."
        )
    return AutoModelForCausalLM.from_pretrained(source, **load)


def _tokenizer(tokenizer: Any, language: PreTrainedModel, hub_kwargs: dict[str, Any]) -> PreTrainedTokenizerBase:
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        tokenizer = copy.deepcopy(tokenizer)  # placeholder tokens are added below
    else:
        source = tokenizer or name_or_path(language.config)
        if not source:
            raise ValueError("The language model was not loaded from anywhere: pass its `tokenizer=`.")
        tokenizer = AutoTokenizer.from_pretrained(source, **hub_kwargs)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ValueError("The tokenizer has neither a padding nor an end token; set `tokenizer.pad_token`.")
        tokenizer.pad_token = tokenizer.eos_token
    # For generation; the collator pads on the right for training. What is saved are the init kwargs.
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"
    return tokenizer


def _check_one_owner(parts: list[Part]) -> None:
    """A tower is saved once, under the name of the modality that it belongs to."""
    owners: dict[int, str] = {}
    for part in parts:
        tower = part.settings["tower"]
        owner = owners.setdefault(id(tower), part.name)
        if isinstance(tower, nn.Module) and owner != part.name:
            raise ValueError(
                f"{part.name!r} and {owner!r} are given the same tower object: let one borrow it, "
                f'"{part.name}": {{"tower": "{owner}"}}, or give each its own.'
            )


def _check_tokens(tokenizer: PreTrainedTokenizerBase, tokens: dict[str, str]) -> None:
    """Raises ValueError for placeholders that text would hold by chance, or that mean something else."""
    if len(set(tokens.values())) < len(tokens):
        raise ValueError(f"Each modality needs a placeholder token of its own: {tokens}.")
    words = tokenizer.get_vocab().keys() - tokenizer.added_tokens_encoder.keys()
    for name, token in tokens.items():
        if not isinstance(token, str) or not token.strip():
            raise ValueError(
                f"The placeholder token of {name!r} must be a string like {f'<{name}>'!r}, not {token!r}."
            )
        for role, word in _ROLES.items():
            if token == getattr(tokenizer, f"{role}_token"):
                raise ValueError(f"The placeholder {token!r} of {name!r} is the tokenizer's {word} token already.")
        if token in words:
            raise ValueError(
                f"The placeholder {token!r} of {name!r} is an ordinary word of the tokenizer; choose another."
            )


def _add_tokens(tokenizer: PreTrainedTokenizerBase, tokens: dict[str, str]) -> None:
    """Placeholders become special tokens with attributes (`tokenizer.image_token`)."""
    for name, token in tokens.items():
        tokenizer.add_special_tokens({"extra_special_tokens": [token]}, replace_extra_special_tokens=False)
        name_special_token(tokenizer, f"{name}_token", token)


# --- putting together ----------------------------------------------------------------------------------------------


def _model(language: PreTrainedModel, parts: list[Part], reads_input_ids: bool) -> AnyModalityForCausalLM:
    children: dict[str, nn.Module] = {"language_model": language}
    configs: dict[str, PreTrainedConfig] = {}
    for part in parts:
        if part.row["tower"] == part.name:
            children[f"{part.name}_tower"], configs[f"{part.name}_config"] = part.tower, part.tower.config
        if part.row["aligner"] == part.name:
            part.aligner.to(language.get_input_embeddings().weight.device)
            children[f"{part.name}_aligner"] = part.aligner
            configs[f"{part.name}_aligner_config"] = part.aligner.config
    config = AnyModalityConfig(
        text_config=language.config,
        modalities={part.name: part.row for part in parts},
        reads_input_ids=reads_input_ids,
        **configs,
    )
    model = AnyModalityForCausalLM(config, parts=children)
    config.dtype = language.dtype
    adopt_quantization(model, language)
    model.generation_config = copy.deepcopy(language.generation_config)
    return model.eval()


def _set_generation(config: Any, tokenizer: PreTrainedTokenizerBase, fields: dict, text: dict[str, Any]) -> None:
    """What ends an answer ends its generation, too, where that is one token."""
    config.update(**fields)
    vocabulary = tokenizer.get_vocab()
    stops = [vocabulary[stop] for stop in text.get("stop", ()) if stop in vocabulary]
    if stops:
        ends = config.eos_token_id if config.eos_token_id is not None else tokenizer.eos_token_id
        ends = [] if ends is None else [ends] if isinstance(ends, int) else ends
        config.eos_token_id = [*ends, *(stop for stop in stops if stop not in ends)]


def _sources(language_model: Any, parts: list[Part], load: dict[str, Any]) -> dict[str, dict[str, Any] | None]:
    """Where each part that was loaded here came from, so that a light checkpoint can refer to it."""
    dtype = None if load.get("dtype") is None else str(load["dtype"]).removeprefix("torch.")
    sources = {"language_model": source_of(language_model, **load)}
    for part in parts:
        if part.row["tower"] == part.name:
            revision = part.settings.get("revision") or load.get("revision")
            sources[f"{part.name}_tower"] = source_of(part.settings["tower"], **{**load, "revision": revision})
    layers = {f"{part.name}_tower": part.row.get("select_layer") for part in parts}
    return {
        part: source and {**source, "dtype": dtype, "select_layer": layers.get(part)}
        for part, source in sources.items()
    }


def _processor(
    tokenizer: PreTrainedTokenizerBase,
    parts: list[Part],
    tokens: dict[str, str],
    template: str,
    text: dict[str, Any] | None,
) -> AnyModalityProcessor:
    table, processors = {}, {}
    for part in parts:
        processors.setdefault(part.attribute, part.processor)
        length, config = part.row["feature_length"], part.aligner.config
        table[part.name] = ModalityInputs(
            token=tokens[part.name],
            processor=part.attribute,
            inputs=dict(zip(part.row["inputs"], part.arguments, strict=True)),
            options=part.options,
            num_tokens=None if length is None else config.count_tokens(part.row["num_frames"], length),
            tower=copy.deepcopy(part.tower.config) if length is None else None,
            aligner=copy.deepcopy(config) if length is None else None,
        )
    tokenizer.chat_template = template
    return AnyModalityProcessor(tokenizer, processors, table, chat_template=template, text_settings=text)
