"""Composing: a language model, a tower and an aligner per modality become one model and its processor."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    AutoVideoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES

from ._registry import did_you_mean
from .aligners import ALIGNERS, Aligner, AlignerConfig
from .chat import extend_template
from .configuration import AnyModalityConfig
from .light_checkpoint import source_of
from .modalities import MODALITIES, ModalitySpec
from .modeling import AnyModalityForCausalLM
from .processing import AnyModalityProcessor
from .towers import drop_unread, load_tower, put_back, run_tower, unread_weights
from .towers.timm import stock_image_processor


_AUTO_PROCESSORS = {
    "image_processor": (AutoImageProcessor,),
    "video_processor": (AutoVideoProcessor, AutoImageProcessor),
    "feature_extractor": (AutoFeatureExtractor,),
    "tokenizer": (AutoTokenizer,),
}
_KEYS = {"tower", "aligner", "num_tokens", "processor", "select_layer", "select_feature", "per_frame", "token", "revision"}


@dataclass
class _Modality:
    """One modality while it is composed."""

    name: str
    spec: ModalitySpec
    settings: dict[str, Any]
    options: dict[str, Any]
    tower: PreTrainedModel | None = None
    aligner: Aligner | AlignerConfig | None = None
    processor: Any = None
    attribute: str = ""
    row: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)  # sub-processor's name -> tower's argument
    probe: dict[str, torch.Tensor] = field(default_factory=dict)  # what the sub-processor gives for a made-up medium


def compose(
    language_model: str | os.PathLike | PreTrainedConfig | PreTrainedModel,
    modalities: dict[str, Any],
    tokenizer: str | os.PathLike | PreTrainedTokenizerBase | None = None,
    *,
    chat_template: str | None = None,
    dtype: str | torch.dtype | None = None,
    **hub_kwargs,
) -> tuple[AnyModalityForCausalLM, AnyModalityProcessor]:
    """Gives a language model senses.

    Loaded models that are given become the composite's own and may be changed: embeddings grow by the placeholders,
    and parts of towers that no one reads (poolers, final norms) are taken out.

    Args:
        language_model: Hub id, local path, config (random weights) or loaded model.
        modalities: modality -> its tower alone, or a dict with

            - `tower`: Hub id, local path, config, loaded model, or the name of another modality whose tower it borrows;
            - `aligner`: name of a registered aligner (default "perceiver_resampler"), a dict `{"type": name, ...}` with
              its config's fields, an aligner config or module, or the name of a modality whose aligner it borrows;
            - `num_tokens`: tokens per medium; the aligner's own default if left out;
            - `processor`: the tower's image processor, feature extractor, ...; found with the tower if left out;
            - `select_layer`: read this hidden state and build no layer behind it (-2 as LLaVA does);
            - `select_feature`: "all", "patches" (no class token) or "pooled";
            - `per_frame`: whether the tower reads a video's frames one by one; found out if left out;
            - `token`: placeholder token, `<name>` if left out; `revision`: of the tower on the Hub;
            - the options of its `ModalitySpec` (`num_frames`, `sampling_rate`, `seconds`, `value_range`, ...).
        tokenizer: found with the language model if left out.
        chat_template: for a tokenizer without, or instead of its own.
        dtype: for the language model and towers loaded here; as their checkpoints say if left out.
        hub_kwargs: `token`, `cache_dir`, `local_files_only`, `trust_remote_code`, ... for everything that is loaded.

    Returns:
        The model, in eval mode, with everything as trainable as it was; and its processor.
    """
    load = {**hub_kwargs, **({} if dtype is None else {"dtype": dtype})}
    language = _language_model(language_model, load)
    tokenizer = _tokenizer(tokenizer, language, hub_kwargs)
    parts = [_parse(name, value, modalities) for name, value in sorted(modalities.items())]
    by_name = {part.name: part for part in parts}
    hidden = language.get_input_embeddings().weight.shape[-1]
    for part in sorted(parts, key=_borrows("tower", by_name)):
        _add_tower(part, by_name, load)
        _probe(part)
    _drop_unread(parts)
    for part in sorted(parts, key=_borrows("aligner", by_name)):
        _add_aligner(part, by_name, hidden)
    tokens = {part.name: part.settings.get("token") or part.spec.token for part in parts}
    _add_tokens(tokenizer, tokens, language)
    for part in parts:
        part.row["token_id"] = tokenizer.convert_tokens_to_ids(tokens[part.name])
    model = _model(language, parts)
    model.part_sources = _sources(language_model, parts, load)
    template = extend_template(chat_template or tokenizer.chat_template, tokens)
    return model, _processor(tokenizer, parts, tokens, template)


def _borrows(key: str, by_name: dict[str, _Modality]):
    """Whether a modality names another's tower or aligner as its own; lenders are made first."""
    return lambda part: isinstance(part.settings.get(key), str) and part.settings[key] in by_name


def _parse(name: str, value: Any, modalities: dict[str, Any]) -> _Modality:
    spec = MODALITIES[name]
    settings = dict(value) if isinstance(value, dict) else {"tower": value}
    if "tower" not in settings:
        raise ValueError(f"Modality {name!r} needs a `tower`.")
    options = {key: settings.pop(key, default) for key, default in spec.options.items()}
    if unknown := sorted(set(settings) - _KEYS):
        known = _KEYS | set(options)
        raise ValueError(
            f"Unknown settings {unknown} for modality {name!r}.{did_you_mean(unknown[0], known)} "
            f"Known: {', '.join(sorted(known))}."
        )
    if isinstance(settings["tower"], str) and settings["tower"] in set(MODALITIES) - set(modalities):
        raise ValueError(f"Modality {name!r} borrows the tower of {settings['tower']!r}, which is not being composed.")
    explicit = {key for key in options if isinstance(value, dict) and key in value}
    return _Modality(name, spec, {**settings, "explicit": explicit}, options)


# --- the language model and its tokenizer --------------------------------------------------------------------------


def _language_model(source: Any, load: dict[str, Any]) -> PreTrainedModel:
    if isinstance(source, PreTrainedModel):
        if source.get_output_embeddings() is None:
            raise ValueError(f"{type(source).__name__} has no language-model head; pass the causal language model.")
        return source
    if isinstance(source, PreTrainedConfig):
        return AutoModelForCausalLM.from_config(source).eval()
    return AutoModelForCausalLM.from_pretrained(source, **load)


def _tokenizer(tokenizer: Any, language: PreTrainedModel, hub_kwargs: dict[str, Any]) -> PreTrainedTokenizerBase:
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        tokenizer = copy.deepcopy(tokenizer)  # placeholder tokens are added below
    else:
        source = tokenizer or language.config._name_or_path
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


@torch.no_grad()
def _reads_input_ids(language: PreTrainedModel) -> bool:
    """Whether the language model says something else, or nothing, when it is given embeddings instead of ids."""
    was_training = language.training
    language.eval()
    ids = torch.arange(4, device=language.get_input_embeddings().weight.device)[None] + 4
    try:
        expected = language(input_ids=ids).logits
        embeds = language.get_input_embeddings()(ids)
        language(inputs_embeds=embeds * 1.01)  # media are not rows of the table
        return not torch.allclose(language(inputs_embeds=embeds).logits, expected, rtol=1e-3, atol=1e-3)
    except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError):
        return True
    finally:
        language.train(was_training)


def _add_tokens(tokenizer: PreTrainedTokenizerBase, tokens: dict[str, str], language: PreTrainedModel) -> None:
    """Placeholders become special tokens with attributes (`tokenizer.image_token`); embeddings grow if they must."""
    if len(set(tokens.values())) < len(tokens):
        raise ValueError(f"Each modality needs a placeholder token of its own: {tokens}.")
    for name, token in tokens.items():
        tokenizer.add_special_tokens({"extra_special_tokens": [token]}, replace_extra_special_tokens=False)
        tokenizer._set_model_specific_special_tokens({f"{name}_token": token})
    rows = language.get_input_embeddings().weight.shape[0]
    if len(tokenizer) <= rows:
        return
    language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    embeddings = (language.get_input_embeddings(), language.get_output_embeddings())
    with torch.no_grad():
        for module in embeddings:
            # New rows are never read as inputs; as outputs, the mean disturbs the others' probabilities least.
            for parameter in (module.weight, getattr(module, "bias", None)):
                if parameter is not None and parameter.shape[0] == len(tokenizer):
                    parameter[rows:] = parameter[:rows].float().mean(0).to(parameter.dtype)


# --- towers --------------------------------------------------------------------------------------------------------


def _add_tower(part: _Modality, by_name: dict[str, _Modality], load: dict[str, Any]) -> None:
    source, kind = part.settings["tower"], part.spec.processor_kind
    lender = by_name.get(source) if isinstance(source, str) else None
    if lender is part:
        raise ValueError(f"Modality {part.name!r} cannot borrow its own tower; there {source!r} names no checkpoint.")
    if lender is not None:
        if lender.tower is None:
            raise ValueError(f"Modality {part.name!r} borrows the tower of {source!r}, which borrows one itself.")
        for key in ("select_layer",):
            if part.settings.get(key) not in (None, lender.settings.get(key)):
                raise ValueError(f"{key} of a borrowed tower is set where it belongs, in modality {source!r}.")
        part.tower, part.row["tower"] = lender.tower, source
        part.settings["select_layer"] = lender.settings.get("select_layer")
        given = part.settings.get("processor")
        part.processor, part.attribute = (given, "") if given is not None else (lender.processor, lender.attribute)
    else:
        revision = {"revision": part.settings["revision"]} if part.settings.get("revision") else {}
        part.tower = load_tower(source, part.spec.medium, part.settings.get("select_layer"), **load, **revision)
        part.row["tower"] = part.name
        part.processor = _find_processor(part, source, {**load, **revision})
    if part.settings.get("select_layer") is not None:
        part.row["select_layer"] = part.settings["select_layer"]
    if not part.attribute:
        name = type(part.processor).__name__.lower()
        kind = "image_processor" if "image" in name else "video_processor" if "video" in name else kind
        primary = "video_processor" if (part.name, kind) == ("video", "video_processor") else ""
        part.attribute = part.spec.processor_attribute or primary or f"{part.name}_{kind}"
    frames = getattr(part.tower.config, "num_frames", None)
    if "num_frames" in part.options and "num_frames" not in part.settings["explicit"] and isinstance(frames, int):
        part.options["num_frames"] = frames


def _find_processor(part: _Modality, source: Any, load: dict[str, Any]) -> Any:
    given, kind = part.settings.get("processor"), part.spec.processor_kind
    if given is not None and not isinstance(given, (str, os.PathLike)):
        return given
    place = given or (source if isinstance(source, (str, os.PathLike)) else part.tower.config._name_or_path)
    load = {key: value for key, value in load.items() if key != "dtype"}
    default = None if given else part.spec.default_processor(part.tower.config, part.options)
    problems = []
    for auto_class in _AUTO_PROCESSORS[kind] if place else ():
        try:
            return stock_image_processor(auto_class.from_pretrained(place, **load))
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(f"{auto_class.__name__}: {error}")
    timm = stock_image_processor(part.tower)
    if default is None and timm is part.tower:
        raise ValueError(
            f"No {kind} was found for modality {part.name!r}"
            + (f" in {place} ({'; '.join(problems)})" if problems else "")
            + '; pass it as "processor".'
        )
    return default if default is not None else timm


def _probe(part: _Modality) -> None:
    """Runs a made-up medium through processor and tower: what the inputs and features are is seen, not guessed."""
    spec, tower = part.spec, part.tower
    with torch.no_grad():
        outputs = [
            spec.extract([spec.read(spec.dummy(part.processor, part.options, size), part.processor, part.options)],
                         part.processor, part.options)
            for size in (0, 1)
        ]
    part.arguments = _arguments(part, outputs[0])
    main = next(iter(part.arguments))
    fixed = outputs[0][main].shape == outputs[1][main].shape
    name = part.name
    native = tower.config.model_type in MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES
    per_frame = part.settings.get("per_frame")
    if per_frame is None:
        per_frame = "num_frames" in part.options and not native
    shape = outputs[0][main].shape[1:]
    part.row.update(
        inputs={_input_name(name, key, main): argument for key, argument in part.arguments.items()},
        input_shape=list(shape),
        input_dtype=str(outputs[0][main].dtype).removeprefix("torch."),
        per_frame=bool(per_frame),
        num_frames=shape[0] if per_frame else 1,
        select_feature=part.settings.get("select_feature") or "all",
    )
    part.probe = {key: outputs[0][key] for key in part.arguments}
    features = _features(part)
    part.row["feature_length"] = features.shape[1] if fixed else None
    part.settings["feature_size"] = features.shape[-1]


def _arguments(part: _Modality, outputs: dict[str, torch.Tensor]) -> dict[str, str]:
    """Which of the sub-processor's outputs the tower takes, by which argument; the main input first."""
    import inspect

    accepted = inspect.signature(part.tower.forward).parameters
    main = part.tower.main_input_name
    source = main if main in outputs else next(iter(outputs), None)
    if source is None or main not in accepted:
        raise ValueError(
            f"The tower of {part.name!r} takes {main!r}, but its processor gives {', '.join(outputs) or 'nothing'}."
        )
    others = {key: key for key in outputs if key in accepted and key not in (source, main)}
    return {source: main, **others}


def _input_name(modality: str, key: str, main: str) -> str:
    """Name of a model input: Transformers' own where it has one, else `<modality>_values` and `<modality>_<key>`."""
    canonical = {
        ("image", "pixel_values"): "pixel_values",
        ("video", "pixel_values"): "pixel_values_videos",
        ("video", "pixel_values_videos"): "pixel_values_videos",
        ("audio", "input_features"): "input_features",
        ("audio", "input_values"): "input_values",
    }
    return canonical.get((modality, key)) or (f"{modality}_values" if key == main else f"{modality}_{key}")


def _tower_arguments(part: _Modality) -> dict[str, torch.Tensor]:
    """What the tower's forward gets for the probe."""
    parameter, arguments = next(part.tower.parameters()), {}
    for key, argument in part.arguments.items():
        value = part.probe[key]
        value = value.to(parameter.device, parameter.dtype if value.is_floating_point() else value.dtype)
        arguments[argument] = value.flatten(0, 1) if part.row["per_frame"] else value
    return arguments


def _features(part: _Modality) -> torch.Tensor:
    """`(items or frames, length, dim)`: what the tower gives for the probe."""
    tower, arguments = part.tower, _tower_arguments(part)
    was_training = tower.training
    try:
        with torch.no_grad():
            return run_tower(tower.eval(), arguments, part.row.get("select_layer"), part.row["select_feature"])[0]
    except Exception as error:
        shapes = {name: tuple(value.shape) for name, value in arguments.items()}
        raise ValueError(
            f"The tower of {part.name!r} ({type(tower).__name__}) cannot read what its processor "
            f"({type(part.processor).__name__}) gives, {shapes}: {error}"
        ) from error
    finally:
        tower.train(was_training)


def _drop_unread(parts: list[_Modality]) -> None:
    """Takes out of each tower what no modality reads, if the features are then really the same."""
    for owner in (part for part in parts if part.row["tower"] == part.name):
        readers = [part for part in parts if part.row["tower"] == owner.name]
        readings = [(_tower_arguments(p), p.row.get("select_layer"), p.row["select_feature"]) for p in readers]
        names = unread_weights(owner.tower.config, readings)
        before = [_features(part) for part in readers] if names else []
        taken = drop_unread(owner.tower, names)
        try:
            same = all(torch.equal(_features(part), old) for part, old in zip(readers, before, strict=bool(names)))
        except ValueError:
            same = False
        if same:
            owner.row["unread"] = names
        else:
            put_back(owner.tower, taken)


# --- aligners ------------------------------------------------------------------------------------------------------


def _add_aligner(part: _Modality, by_name: dict[str, _Modality], hidden: int) -> None:
    wanted = part.settings.get("aligner")
    wanted = "perceiver_resampler" if wanted is None else wanted
    sizes = {
        "feature_size": part.settings["feature_size"],
        "hidden_size": hidden,
        "feature_length": part.row["feature_length"],
        "num_frames": part.row["num_frames"],
    }
    if part.settings.get("num_tokens") is not None:
        sizes["num_tokens"] = part.settings["num_tokens"]
    if isinstance(wanted, str) and wanted in by_name and wanted not in ALIGNERS:
        lender = by_name[wanted]
        if lender.row.get("aligner") != lender.name:
            raise ValueError(f"Modality {part.name!r} borrows the aligner of {wanted!r}, which borrows one itself.")
        part.aligner, part.row["aligner"] = lender.aligner, wanted
        if part.aligner.config.feature_size != sizes["feature_size"]:
            raise ValueError(
                f"Modality {part.name!r} has features of width {sizes['feature_size']}, but the aligner of {wanted!r} "
                f"reads {part.aligner.config.feature_size}."
            )
        return
    part.row["aligner"] = part.name
    if isinstance(wanted, nn.Module):
        part.aligner = wanted
    elif isinstance(wanted, PreTrainedConfig):
        part.aligner = AutoModel.from_config(wanted)
    else:
        settings = dict(wanted) if isinstance(wanted, dict) else {"type": wanted}
        config_class = ALIGNERS[settings.pop("type")].config_class
        if unknown := sorted(set(settings) - set(config_class.default_config_fields())):
            raise ValueError(f"Unknown settings {unknown} for the aligner of {part.name!r} ({config_class.__name__}).")
        part.aligner = AutoModel.from_config(config_class(**{**sizes, **settings}))
    config = part.aligner.config
    if (config.feature_size, config.hidden_size) != (sizes["feature_size"], hidden):
        raise ValueError(
            f"The aligner of {part.name!r} goes from width {config.feature_size} to {config.hidden_size}; its tower and "
            f"the language model have {sizes['feature_size']} and {hidden}."
        )


# --- putting together ----------------------------------------------------------------------------------------------


def _model(language: PreTrainedModel, parts: list[_Modality]) -> AnyModalityForCausalLM:
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
        reads_input_ids=_reads_input_ids(language),
        **configs,
    )
    model = AnyModalityForCausalLM(config, parts=children)
    config.dtype = language.dtype
    model.generation_config = copy.deepcopy(language.generation_config)
    return model.eval()


def _sources(language_model: Any, parts: list[_Modality], load: dict[str, Any]) -> dict[str, dict[str, Any] | None]:
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
    tokenizer: PreTrainedTokenizerBase, parts: list[_Modality], tokens: dict[str, str], template: str
) -> AnyModalityProcessor:
    table, processors = {}, {}
    for part in parts:
        processors.setdefault(part.attribute, part.processor)
        config = part.aligner.config
        row: dict[str, Any] = {
            "token": tokens[part.name],
            "processor": part.attribute,
            "inputs": dict(zip(part.row["inputs"], part.arguments, strict=True)),
            "options": part.options,
        }
        if part.row["feature_length"] is not None:
            row["num_tokens"] = config.count_tokens(part.row["num_frames"], part.row["feature_length"])
        else:
            row["num_tokens"], row["tower"], row["aligner"] = None, part.tower.config.to_dict(), config.to_dict()
        table[part.name] = row
    tokenizer.chat_template = template
    return AnyModalityProcessor(tokenizer, processors, table, chat_template=template)
