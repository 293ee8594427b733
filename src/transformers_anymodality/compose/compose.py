"""Composing: a language model, a tower and an aligner per modality become one model and its processor."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Mapping
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..model.configuration import AnyModalityConfig, ModalityConfig
from ..model.distributed import built_whole
from ..model.language_model import check_growth, grow_embeddings
from ..model.light_checkpoint import source_of
from ..model.modeling import AnyModalityForCausalLM
from ..model.quantization import adopt_quantization
from ..processing.chat import extend_template
from ..processing.media_inputs import ModalityInputs
from ..processing.processor import AnyModalityProcessor
from ..utils.hub import HUB_KWARGS, config_alone
from ..utils.registry import did_you_mean
from .find import add_aligner, add_tower, check_attributes
from .part import Part, lenders_first, read_settings
from .small import is_weightless
from .tokens import load_tokenizer, prepare_tokenizer, set_generation
from .trial import drop_unread_weights, try_aligner, try_language_model, try_tower


_HUB_KWARGS = frozenset((*HUB_KWARGS, "code_revision", "trust_remote_code"))  # for everything that is loaded


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
    """Gives a language model modalities.

    Loaded models that are given become the composite's own and may be changed: embeddings grow by the placeholders,
    and parts of towers that no one reads (poolers, final norms) are taken out.

    Within `with torch.device("meta"):` a composite of any size is planned without its memory: it has no weights, and of
    Hub ids and paths configs alone are read. What has to run to be known is run on small copies of the same architecture.
    The processor is the real one.

    Args:
        language_model: Hub id, local path, config (random weights) or loaded model.
        modalities: modality -> its tower alone, or a dict with

            - `tower`: Hub id, local path, config, loaded model, or the name of a modality whose tower it borrows;
            - `aligner`: name of a registered aligner (default "perceiver_resampler"), a dict `{"type": name, ...}`
              with its config's fields, an aligner config or module, or a modality whose aligner it borrows;
            - `num_tokens`: tokens per item; the aligner's own default if left out;
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
        ValueError, TypeError: parts that do not fit together, or impossible settings; nothing was changed.
    """
    _check_arguments(modalities, hub_kwargs)
    load = {**hub_kwargs, **({} if dtype is None else {"dtype": dtype})}
    asked = read_settings(modalities)
    language = _language_model(language_model, load)
    hidden = language.get_input_embeddings().get_parameter("weight").shape[-1]
    tokenizer = load_tokenizer(tokenizer, language, **hub_kwargs)
    tokens = {name: one.token for name, one in asked.items()}
    token_ids = prepare_tokenizer(tokenizer, tokens)
    parts = {name: Part(name, asked[name], ModalityConfig(token_id)) for name, token_id in token_ids.items()}
    tried: list[Part] = []
    for part, lender in lenders_first(parts, "tower"):
        add_tower(part, lender, load)
        try_tower(part, tried)
        tried.append(part)
    check_attributes(parts.values())
    for part, lender in lenders_first(parts, "aligner"):
        add_aligner(part, lender, hidden)
        try_aligner(part, hidden)
    reads_ids = try_language_model(language)
    beside = check_growth(language, len(tokenizer))
    # All that can be refused was; only now is what was given changed.
    drop_unread_weights(parts.values())
    grow_embeddings(language, len(tokenizer), beside)
    model = _model(language, parts, reads_ids)
    set_generation(model.generation_config, tokenizer, generation or {}, text or {})
    model.part_sources = _sources(language_model, parts, load)
    tokenizer.chat_template = extend_template(chat_template or tokenizer.chat_template, tokens)
    return model, _processor(tokenizer, parts, text)


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
    if (config := config_alone(source, **load)) is not None:
        return AutoModelForCausalLM.from_config(config).eval()
    return AutoModelForCausalLM.from_pretrained(source, **load)


# --- putting together ----------------------------------------------------------------------------------------------


def _model(language: PreTrainedModel, parts: dict[str, Part], reads_input_ids: bool) -> AnyModalityForCausalLM:
    children, configs = {"language_model": language}, dict[str, Any]()
    for name, part in parts.items():
        if part.owns("tower"):
            children[f"{name}_tower"], configs[f"{name}_config"] = part.tower, part.tower.config
        if part.owns("aligner"):
            if not is_weightless(part.aligner):
                part.aligner.to(language.get_input_embeddings().weight.device)
            children[f"{name}_aligner"] = part.aligner
            configs[f"{name}_aligner_config"] = part.aligner.config
    config = AnyModalityConfig(
        text_config=language.config,
        modalities={name: part.config for name, part in parts.items()},
        reads_input_ids=reads_input_ids,
        **configs,
    )
    model = AnyModalityForCausalLM(config, parts=children)
    config.dtype = language.dtype
    adopt_quantization(model, language)
    model.generation_config = copy.deepcopy(language.generation_config)
    return model.eval()


def _sources(language_model: Any, parts: dict[str, Part], load: dict[str, Any]) -> dict[str, dict[str, Any] | None]:
    """Where each part that was loaded here came from, so that a light checkpoint can refer to it."""
    dtype = None if load.get("dtype") is None else str(load["dtype"]).removeprefix("torch.")
    given = {"language_model": (language_model, load, None)}
    for name, part in parts.items():
        if part.owns("tower"):
            own = {**load, "revision": part.asked.revision or load.get("revision")}
            given[f"{name}_tower"] = (part.asked.tower, own, part.asked.select_layer)
    sources = {name: (source_of(source, **own), layer) for name, (source, own, layer) in given.items()}
    return {
        name: source and {**source, "dtype": dtype, "select_layer": layer} for name, (source, layer) in sources.items()
    }


def _processor(
    tokenizer: PreTrainedTokenizerBase, parts: dict[str, Part], text: dict[str, Any] | None
) -> AnyModalityProcessor:
    table, processors = {}, {}
    for name, part in parts.items():
        processors.setdefault(part.attribute, part.processor)
        length, config = part.config.feature_length, part.aligner.config
        table[name] = ModalityInputs(
            token=part.asked.token,
            processor=part.attribute,
            inputs=dict(zip(part.config.inputs, part.arguments, strict=True)),
            options=part.options,
            num_tokens=None if length is None else config.count_tokens(part.config.num_frames, length),
            tower=copy.deepcopy(part.tower.config) if length is None else None,
            aligner=copy.deepcopy(config) if length is None else None,
        )
    template: Any = tokenizer.chat_template
    return AnyModalityProcessor(tokenizer, processors, table, chat_template=template, text_settings=text)
