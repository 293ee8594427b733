"""Composing: a language model, a tower and an aligner per modality become one model and its processor."""

import copy
import inspect
import os
from collections.abc import Mapping
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..model.checkpoint import source_of
from ..model.configuration import AnyModalityConfig, ModalityConfig
from ..model.language_model import check_growth, grow_embeddings
from ..model.modeling import AnyModalityForCausalLM
from ..model.quantization import adopt_quantization, keep_gradients
from ..processing.chat import extend_template
from ..processing.media_inputs import ModalityInputs
from ..processing.processor import AnyModalityProcessor
from ..utils.hub import HUB_KWARGS, check_folder, config_alone, gguf_arguments
from ..utils.registry import did_you_mean
from ..utils.upstream import name_special_token, without_deepspeed
from .limits import TokenLimit
from .part import Asked, Part, add_aligner, add_tower, check_attributes, lenders_first, read_settings
from .small import is_weightless
from .trial import Trials, drop_unread_weights, try_aligner, try_language_model, try_tower


_HUB_KWARGS = frozenset((*HUB_KWARGS, "code_revision", "trust_remote_code"))  # for everything that is loaded
_ROLES = {"bos": "begin", "eos": "end", "pad": "padding", "unk": "unknown"}


@without_deepspeed()
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
    """Adds modalities to a language model. Loaded models become part of the composite and may be changed: embeddings grow
    by the placeholders, and unread parts of towers (poolers, final norms) are removed.

    Within `with torch.device("meta"):` a composite of any size is planned without its memory. It has no weights. Only the
    configs of Hub ids and paths are read. Checks that must run use small copies of the same architecture.

    Args:
        language_model: Hub id, local path, config (random weights) or loaded model; for GGUF, the path of the file, also
            within a repository ("org/name/file.gguf"); its weights are dequantised.
        modalities: modality -> its tower, or a dict with
            - `tower`: Hub id, local path, config, loaded model, or the name of a modality whose tower it borrows;
            - `aligner`: name of a registered aligner (default "perceiver_resampler"), a dict `{"type": name, ...}`
              with its config's fields, an aligner config or module, or a modality whose aligner it borrows;
            - `num_tokens`: tokens per item; the aligner's own default if left out;
            - `processor`: the tower's image processor, feature extractor, ...; found with the tower if left out;
            - `select_layer`: read this hidden state, and build no later layer (-2 as LLaVA does);
            - `select_feature`: "all", "patches" (no class token), "pooled", or "merged" (neighbouring patches merged, the
              default for towers of patches of any size; DeepStack's features are not read);
            - `max_tokens`: limit per image or video, which its processor scales down; `max_pixels`, `min_pixels`: likewise;
            - `per_frame`: whether the tower reads a video's frames one by one; found out if left out;
            - `token`: placeholder token, `<name>` if left out; `revision`: the tower's on the Hub;
            - the options of its `ModalitySpec` (`num_frames`, `sampling_rate`, `seconds`, `value_range`, ...); for media of
              any size `tiles`, `windows` and `overlap`, `fps`, `max_frames` and `timestamps` (docs/sizes.md).
        tokenizer: found with the language model if left out.
        chat_template, generation: replace the tokenizer's template, and fields of the language model's generation config.
        text: how the processor handles text, see `AnyModalityProcessor`.
        dtype: for the language model and towers loaded here; as in their checkpoints if left out.
        hub_kwargs: `token`, `cache_dir`, `local_files_only`, `trust_remote_code`, ... for everything that is loaded.
            For other loading options (`device_map`, `quantization_config`), load the part yourself and pass the model.

    Returns the model, in eval mode, with everything as trainable as it was, and its processor. Raises ValueError or
    TypeError for parts that do not fit together and for impossible settings; then nothing has been changed.
    """
    _check_arguments(modalities, hub_kwargs)
    load = {**hub_kwargs, **({} if dtype is None else {"dtype": dtype})}
    asked = read_settings(modalities)
    language = _language_model(language_model, load)
    holder = language_model if gguf_arguments(language_model)[1] else language  # a GGUF file holds its tokenizer
    tokenizer = load_tokenizer(tokenizer, holder, **hub_kwargs)
    tokens = {name: one.token for name, one in asked.items()}
    parts = _parts(asked, _add_placeholders(tokenizer, tokens), language, load)
    keep_gradients(language)
    reads_ids = try_language_model(language)
    beside = check_growth(language, len(tokenizer))
    # All checks have passed: from here on, the given models are changed.
    drop_unread_weights(parts.values())
    grow_embeddings(language, len(tokenizer), beside)
    model = _model(language, parts, reads_ids)
    _set_generation(model.generation_config, tokenizer, generation or {}, text or {})
    model.part_sources = _sources(language_model, parts, load)
    tokenizer.chat_template = extend_template(chat_template or tokenizer.chat_template, tokens)
    return model, _processor(tokenizer, parts, text)


def _check_arguments(modalities: Any, hub_kwargs: dict[str, Any]) -> None:
    if not isinstance(modalities, Mapping):
        raise TypeError(f"modalities must be a dict, modality -> tower or settings, not {type(modalities).__name__}.")
    if unknown := sorted(set(hub_kwargs) - _HUB_KWARGS):
        hint = did_you_mean(unknown[0], {*_HUB_KWARGS, *inspect.signature(compose).parameters})
        raise TypeError(
            f"Unknown keyword arguments {unknown}.{hint} To load a part with other options, load it yourself and "
            "pass the model."
        )


# --- the language model and its tokenizer --------------------------------------------------------------------------


def _language_model(source: Any, load: dict[str, Any]) -> PreTrainedModel:
    if isinstance(source, PreTrainedModel):
        if source.get_output_embeddings() is None:
            raise ValueError(f"{type(source).__name__} has no language-model head; pass the causal language model.")
        return source
    if not isinstance(source, (str, os.PathLike, PreTrainedConfig)):
        raise TypeError(
            f"A language model is a Hub id, a local path, a config or a model, not {type(source).__name__}."
        )
    if isinstance(source, PreTrainedConfig):
        return AutoModelForCausalLM.from_config(source).eval()
    source, gguf = gguf_arguments(source)
    if not gguf:
        check_folder(source, **load)
    if (config := config_alone(source, **load, **gguf)) is not None:
        return AutoModelForCausalLM.from_config(config).eval()
    return AutoModelForCausalLM.from_pretrained(source, **load, **gguf)


def load_tokenizer(tokenizer: Any, language_model: Any, **hub_kwargs: Any) -> PreTrainedTokenizerBase:
    """A copy of the given tokenizer, or else the language model's; both as `compose` takes them."""
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return copy.deepcopy(tokenizer)
    config = getattr(language_model, "config", language_model)
    source = tokenizer or (config.name_or_path if isinstance(config, PreTrainedConfig) else config)
    if not source:
        raise ValueError(
            "The language model has no name or path to find its tokenizer by: pass `tokenizer=` (in the command: "
            "--tokenizer ID_OR_DIR)."
        )
    source, gguf = gguf_arguments(source)
    try:
        loaded: Any = AutoTokenizer.from_pretrained(source, **hub_kwargs, **gguf)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"No tokenizer was found in {source}: pass `tokenizer=` (in the command: --tokenizer ID_OR_DIR). ({error})"
        ) from error
    return loaded


def _add_placeholders(tokenizer: PreTrainedTokenizerBase, tokens: dict[str, str]) -> dict[str, int]:
    """Sets padding, and makes the placeholder of each modality a special token with an attribute (`image_token`).

    Returns modality -> its token's id. Raises ValueError if there is no padding token, and for a placeholder that may occur
    in ordinary text or has another meaning.
    """
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ValueError("The tokenizer has neither a padding nor an end token: set `tokenizer.pad_token`.")
        tokenizer.pad_token = tokenizer.eos_token
    # For generation; the collator pads on the right for training. The init kwargs are what is saved.
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"
    _check_placeholders(tokenizer, tokens)
    for name, token in tokens.items():
        tokenizer.add_special_tokens({"extra_special_tokens": [token]}, replace_extra_special_tokens=False)
        name_special_token(tokenizer, f"{name}_token", token)
    return {name: tokenizer.added_tokens_encoder[token] for name, token in tokens.items()}


def _check_placeholders(tokenizer: PreTrainedTokenizerBase, tokens: dict[str, str]) -> None:
    if len(set(tokens.values())) < len(tokens):
        raise ValueError(f"Two modalities have the same placeholder token: {tokens}. Give each its own.")
    words = tokenizer.get_vocab().keys() - tokenizer.added_tokens_encoder.keys()
    for name, token in tokens.items():
        if not isinstance(token, str) or not token.strip():
            raise ValueError(
                f"The placeholder token of {name!r} must be a string like {f'<{name}>'!r}, not {token!r}."
            )
        for role, word in _ROLES.items():
            if token == getattr(tokenizer, f"{role}_token"):
                raise ValueError(
                    f"The placeholder {token!r} of {name!r} is the tokenizer's {word} token: choose another."
                )
        if token in words:
            raise ValueError(
                f"The placeholder {token!r} of {name!r} is an ordinary word of the tokenizer: choose another."
            )


def _set_generation(
    config: GenerationConfig, tokenizer: PreTrainedTokenizerBase, fields: dict[str, Any], text: dict[str, Any]
) -> None:
    """Sets fields. A single token that ends an answer ends its generation, too."""
    config.update(**fields)
    vocabulary = tokenizer.get_vocab()
    stops = [vocabulary[stop] for stop in text.get("stop", ()) if stop in vocabulary]
    if stops:
        ends = config.eos_token_id if config.eos_token_id is not None else tokenizer.eos_token_id
        ends = [] if ends is None else [ends] if isinstance(ends, int) else ends
        config.eos_token_id = [*ends, *(stop for stop in stops if stop not in ends)]


# --- modalities ------------------------------------------------------------------------------------------------------


def _parts(
    asked: dict[str, Asked], token_ids: dict[str, int], language: PreTrainedModel, load: dict[str, Any]
) -> dict[str, Part]:
    parts = {name: Part(name, asked[name], ModalityConfig(token_id)) for name, token_id in token_ids.items()}
    hidden = language.get_input_embeddings().get_parameter("weight").shape[-1]
    trials: Trials = {}
    for part, lender in lenders_first(parts, "tower"):
        add_tower(part, lender, load)
        try_tower(part, trials)
    check_attributes(parts.values())
    for part, lender in lenders_first(parts, "aligner"):

        def try_again(part: Part = part, lender: Part | None = lender) -> None:
            try_tower(part, trials)
            add_aligner(part, lender, hidden)
            try_aligner(part, hidden)

        add_aligner(part, lender, hidden)
        try_aligner(part, hidden)
        TokenLimit(part, try_again, _described).set()
    return parts


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
    given = {"language_model": (language_model, load, None)} | {
        f"{name}_tower": (part.asked.tower, part.asked.loading(load), part.asked.select_layer)
        for name, part in parts.items()
        if part.owns("tower")
    }
    return {
        name: (source := source_of(one, **arguments)) and {**source, "dtype": dtype, "select_layer": layer}
        for name, (one, arguments, layer) in given.items()
    }


def _processor(
    tokenizer: PreTrainedTokenizerBase, parts: dict[str, Part], text: dict[str, Any] | None
) -> AnyModalityProcessor:
    processors: dict[str, Any] = {}
    for part in parts.values():
        processors.setdefault(part.attribute, part.processor)
    table = {name: _described(part) for name, part in parts.items()}
    template: Any = tokenizer.chat_template
    return AnyModalityProcessor(tokenizer, processors, table, chat_template=template, text_settings=text)


def _described(part: Part) -> ModalityInputs:
    own, config = part.config, part.aligner.config
    length = part.trial.length if part.trimmed else own.feature_length
    equal = own.num_frames is not None and own.feature_length is not None
    return ModalityInputs(
        token=part.asked.token,
        processor=part.attribute,
        inputs=dict(zip(own.inputs, part.arguments, strict=True)),
        options=part.options,
        num_tokens=config.count_tokens(own.num_frames, own.feature_length) if equal else None,
        num_frames=own.num_frames,
        frame_counts=part.frame_counts,
        feature_length=length,
        trimmed=part.trimmed,
        sizes=part.trial.sizes,
        unit=part.trial.unit,
        packed=own.packed,
        grid=own.grid,
        channels_first=own.channels_first,
        tower=copy.deepcopy(part.tower.config) if length is None and part.trial.sizes is None else None,
        aligner=None if equal else copy.deepcopy(config),
    )
