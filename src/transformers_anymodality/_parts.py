"""One modality while it is composed: its tower, sub-processor and aligner are found, built and tried."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    AutoVideoProcessor,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES

from ._registry import did_you_mean
from .aligners import ALIGNERS, Aligner, AlignerConfig
from .modalities import MODALITIES, ModalitySpec
from .towers import (
    drop_unread,
    feature_length,
    load_tower,
    main_input,
    match_arguments,
    put_back,
    run_tower,
    unread_weights,
)
from .towers.timm import stock_image_processor


_AUTO_PROCESSORS = {
    "image_processor": (AutoImageProcessor,),
    "video_processor": (AutoVideoProcessor, AutoImageProcessor),
    "feature_extractor": (AutoFeatureExtractor,),
    "tokenizer": (AutoTokenizer,),
}
_KEYS = {
    "tower",
    "aligner",
    "num_tokens",
    "processor",
    "select_layer",
    "select_feature",
    "per_frame",
    "token",
    "revision",
}
_FEATURES = ("all", "patches", "pooled")


@dataclass
class Part:
    """One modality while it is composed."""

    name: str
    spec: ModalitySpec
    settings: dict[str, Any]
    options: dict[str, Any]
    tower: Any = None  # a PreTrainedModel, from `add_tower` on
    aligner: Any = None  # an Aligner, from `add_aligner` on
    processor: Any = None
    attribute: str = ""
    row: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)  # sub-processor's name -> tower's argument
    probe: dict[str, torch.Tensor] = field(default_factory=dict)  # what the sub-processor gives for a made-up medium


def borrows(key: str, by_name: dict[str, Part]) -> Callable[[Part], bool]:
    """Whether a modality names another's tower or aligner as its own; lenders are made first."""
    return lambda part: isinstance(part.settings.get(key), str) and part.settings[key] in by_name


def parse(name: str, value: Any, modalities: Mapping[str, Any]) -> Part:
    spec = MODALITIES[name]
    settings = dict(value) if isinstance(value, dict) else {"tower": value}
    if settings.get("tower") is None:
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
    if (feature := settings.get("select_feature")) not in (None, *_FEATURES):
        raise ValueError(f"select_feature of {name!r} is {feature!r}; it can be {', '.join(_FEATURES)}.")
    count = settings.get("num_tokens")
    if count is not None and (not isinstance(count, int) or count < 1):
        raise ValueError(f"num_tokens of {name!r} is {count!r}; it must be a whole number from 1 on.")
    explicit = {key for key in options if isinstance(value, dict) and key in value}
    return Part(name, spec, {**settings, "explicit": explicit}, options)


# --- towers --------------------------------------------------------------------------------------------------------


def add_tower(part: Part, by_name: dict[str, Part], load: dict[str, Any]) -> None:
    source = part.settings["tower"]
    lender = by_name.get(source) if isinstance(source, str) else None
    if lender is part:
        raise ValueError(f"Modality {part.name!r} cannot borrow its own tower; there {source!r} names no checkpoint.")
    if lender is not None:
        if borrows("tower", by_name)(lender):
            raise ValueError(f"Modality {part.name!r} borrows the tower of {source!r}, which borrows one itself.")
        if part.settings.get("select_layer") not in (None, lender.settings.get("select_layer")):
            raise ValueError(f"select_layer of a borrowed tower is set where it belongs, in modality {source!r}.")
        part.tower, part.row["tower"] = lender.tower, source
        part.settings["select_layer"] = lender.settings.get("select_layer")
        if part.settings.get("processor") is None:
            part.processor, part.attribute = lender.processor, lender.attribute
        else:
            part.processor = _find_processor(part, source, load)
    else:
        revision = {"revision": part.settings["revision"]} if part.settings.get("revision") else {}
        part.tower = load_tower(source, part.spec.medium, part.settings.get("select_layer"), **load, **revision)
        part.row["tower"] = part.name
        part.processor = _find_processor(part, source, {**load, **revision})
    if part.settings.get("select_layer") is not None:
        part.row["select_layer"] = part.settings["select_layer"]
    if not part.attribute:
        part.attribute = _attribute(part)
    frames = getattr(part.tower.config, "num_frames", None)
    if "num_frames" in part.options and "num_frames" not in part.settings["explicit"] and isinstance(frames, int):
        part.options["num_frames"] = frames
    _check_options(part)


def _attribute(part: Part) -> str:
    """Where the processor keeps the sub-processor."""
    name, kind = type(part.processor).__name__.lower(), part.spec.processor_kind
    kind = next((k for k in ("image_processor", "video_processor") if k.replace("_", "") in name), kind)
    primary = "video_processor" if (part.name, kind) == ("video", "video_processor") else ""
    return part.spec.processor_attribute or primary or f"{part.name}_{kind}"


def check_attributes(parts: list[Part]) -> None:
    """Raises ValueError if two sub-processors would be kept in one place."""
    owners: dict[str, Part] = {}
    for part in parts:
        owner = owners.setdefault(part.attribute, part)
        if owner.processor is not part.processor:
            raise ValueError(
                f"{owner.name!r} and {part.name!r} have different processors, but both keep theirs as "
                f"{part.attribute!r}; one of them may borrow the other's tower, or have no `processor_attribute`."
            )


def _check_options(part: Part) -> None:
    """Raises ValueError for options that a sub-processor which was found or given contradicts."""
    default = part.spec.default_processor(part.tower.config, part.options)
    for option in sorted(part.settings["explicit"]) if default is not None else ():
        name = "num_samples" if option == "seconds" else option
        ours, theirs = getattr(default, name, None), getattr(part.processor, name, None)
        if not np.array_equal(ours, theirs):
            raise ValueError(
                f"Modality {part.name!r} is set to {name}={ours}, but its {type(part.processor).__name__} has "
                f"{name}={theirs}. Change or leave out one of them."
            )


def _find_processor(part: Part, source: Any, load: dict[str, Any]) -> Any:
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
    if default is None and (given or timm is part.tower):
        raise ValueError(
            f"No {kind} was found for modality {part.name!r}"
            + (f" in {place} ({'; '.join(problems)})" if problems else "")
            + '; pass it as "processor".'
        )
    return default if default is not None else timm


def probe(part: Part) -> None:
    """Runs a made-up medium through processor and tower: what the inputs and features are is seen, not guessed."""
    tower, outputs = part.tower, [_made_up(part, size) for size in (0, 1)]
    part.arguments = match_arguments(tower, outputs[0])
    main = next(iter(part.arguments))
    pooled = part.settings.get("select_feature") == "pooled"
    fixed = pooled or outputs[0][main].shape == outputs[1][main].shape
    name = part.name
    native = tower.config.model_type in MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES or "video" in main_input(tower)
    per_frame = part.settings.get("per_frame")
    if per_frame is None:
        clips = outputs[0][main].ndim > 5  # `(items, clips, channels, frames, height, width)`
        per_frame = "num_frames" in part.options and not (native or clips)
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
    _check_batch(part, features)
    if not fixed:
        _check_length(part, outputs)
    part.row["feature_length"] = features.shape[1] if fixed else None
    part.settings["probed_length"], part.settings["feature_size"] = features.shape[1:]


@torch.no_grad()
def _made_up(part: Part, size: int) -> dict[str, torch.Tensor]:
    """What the sub-processor gives for a made-up medium."""
    spec, processor, options = part.spec, part.processor, part.options
    try:
        return spec.extract([spec.read(spec.dummy(processor, options, size), processor, options)], processor, options)
    except Exception as error:
        raise ValueError(
            f"The processor of {part.name!r} ({type(processor).__name__}) cannot prepare a made-up medium: {error}"
        ) from error


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


def _tower_arguments(part: Part) -> dict[str, torch.Tensor]:
    """What the tower's forward gets for the probe."""
    parameter, arguments = next(part.tower.parameters(), torch.empty(0)), {}  # a tower may have no weights
    for key, argument in part.arguments.items():
        value = part.probe[key]
        value = value.to(parameter.device, parameter.dtype if value.is_floating_point() else value.dtype)
        arguments[argument] = value.flatten(0, 1) if part.row["per_frame"] else value
    return arguments


def _features(part: Part) -> torch.Tensor:
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


def _check_batch(part: Part, features: torch.Tensor) -> None:
    """Raises ValueError unless the tower gives an item the same features again, beside another one."""
    item, rows = part.probe, len(next(iter(_tower_arguments(part).values())))
    main = next(iter(item))
    # A batch of the item and of one with the same numbers in another order.
    part.probe = {key: torch.cat([value, value.flip(-1) if key == main else value]) for key, value in item.items()}
    try:
        both = _features(part)
    finally:
        part.probe = item
    apart = (len(features), len(both)) == (rows, 2 * rows) and both.shape[1:] == features.shape[1:]
    close = 1e-3 if features.dtype == torch.float32 else 0.1
    if not apart or (both[:rows] - features).abs().max() > close * features.abs().max():
        cause = "it draws them at random" if apart else "it does not keep items apart"
        raise ValueError(
            f"The tower of {part.name!r} ({type(part.tower).__name__}) gives an item other features beside another one, "
            f"of shapes {tuple(features.shape)} and {tuple(both.shape)}: {cause}."
        )


def _check_length(part: Part, outputs: list[dict[str, torch.Tensor]]) -> None:
    """Raises ValueError unless the number of features of a short and a long item can be told without data."""
    item, kind, lengths, counted = part.probe, type(part.tower).__name__, [], []
    try:
        for output in outputs:
            part.probe = {key: output[key] for key in part.arguments}
            lengths.append(_features(part).shape[1])
            counted.append(feature_length(part.tower.config, output))
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"The tower of {part.name!r} ({kind}) gives each item another number of features, and how many cannot be told "
            f"without running it: {error}"
        ) from error
    finally:
        part.probe = item
    if lengths != counted or lengths[0] == lengths[1]:
        raise ValueError(
            f"The tower of {part.name!r} ({kind}) gives {lengths} features for a short and a long item, where {counted} "
            "were counted: its config does not tell their width."
        )


def drop_unread_weights(parts: list[Part]) -> None:
    """Takes out of each tower what no modality reads, if the features are then really the same; freezes the rest of it."""
    for owner in (part for part in parts if part.row["tower"] == part.name):
        tower, was_training = owner.tower, owner.tower.training
        readers = [part for part in parts if part.row["tower"] == owner.name]
        readings = [(_tower_arguments(p), p.row.get("select_layer"), p.row["select_feature"]) for p in readers]
        names = unread_weights(tower.eval(), readings)
        tower.train(was_training)
        without = (
            names if _same_without(names, tower, readers) else [n for n in names if _same_without([n], tower, readers)]
        )
        if not _same_without(without, tower, readers):
            without = []
        kept = [name for name in names if name not in without]
        frozen = [key for key, _ in tower.named_parameters() for name in kept if f"{key}.".startswith(f"{name}.")]
        owner.row["unread"] = sorted({*without, *frozen})
        drop_unread(tower, owner.row["unread"])


def _same_without(names: list[str], tower: PreTrainedModel, readers: list[Part]) -> bool:
    """Whether features stay the same without these modules."""
    before = [_features(part) for part in readers] if names else []
    taken = drop_unread(tower, names)
    try:
        return all(torch.equal(_features(part), old) for part, old in zip(readers, before, strict=bool(names)))
    except ValueError:
        return False
    finally:
        put_back(tower, taken)


# --- aligners ------------------------------------------------------------------------------------------------------


def add_aligner(part: Part, by_name: dict[str, Part], hidden: int) -> None:
    wanted = part.settings.get("aligner")
    wanted = "perceiver_resampler" if wanted is None else wanted
    lender = by_name.get(wanted) if isinstance(wanted, str) and wanted not in ALIGNERS else None
    if lender is part:
        raise ValueError(f"Modality {part.name!r} cannot borrow its own aligner; {wanted!r} is no aligner's name.")
    if lender is not None:
        if lender.row.get("aligner") != lender.name:
            raise ValueError(f"Modality {part.name!r} borrows the aligner of {wanted!r}, which borrows one itself.")
        part.aligner, part.row["aligner"] = lender.aligner, wanted
        if part.aligner.config.feature_size != part.settings["feature_size"]:
            raise ValueError(
                f"Modality {part.name!r} has features of width {part.settings['feature_size']}, but the aligner of "
                f"{wanted!r} reads {part.aligner.config.feature_size}."
            )
    else:
        part.aligner, part.row["aligner"] = _build_aligner(part, wanted, hidden), part.name
    _check_aligner(part, hidden)


def _build_aligner(part: Part, wanted: Any, hidden: int) -> Aligner:
    if isinstance(wanted, Aligner):
        return wanted
    if isinstance(wanted, AlignerConfig):
        return AutoModel.from_config(wanted)
    settings = {"type": wanted} if isinstance(wanted, str) else wanted
    if not isinstance(settings, Mapping) or not isinstance(settings.get("type"), str):
        shown = "a dict without one" if isinstance(settings, Mapping) else type(wanted).__name__
        raise ValueError(
            f'The aligner of {part.name!r} is a name, {{"type": name, ...}}, a config or a module; not {shown}.'
        )
    config_class = ALIGNERS[settings["type"]].config_class
    settings = {key: value for key, value in settings.items() if key != "type"}
    if unknown := sorted(set(settings) - (known := {field.name for field in fields(config_class)})):
        raise ValueError(
            f"Unknown settings {unknown} for the aligner of {part.name!r} ({config_class.__name__})."
            f"{did_you_mean(unknown[0], known)}"
        )
    sizes = {
        "feature_size": part.settings["feature_size"],
        "hidden_size": hidden,
        "feature_length": part.row["feature_length"],
        "num_frames": part.row["num_frames"],
    }
    if part.settings.get("num_tokens") is not None:
        sizes["num_tokens"] = part.settings["num_tokens"]
    return AutoModel.from_config(config_class(**{**sizes, **settings}))


@torch.no_grad()
def _check_aligner(part: Part, hidden: int) -> None:
    """Raises ValueError if the aligner does not fit, or gives another number of tokens than it counts."""
    config, name, count = part.aligner.config, part.name, part.settings.get("num_tokens")
    if (config.feature_size, config.hidden_size) != (part.settings["feature_size"], hidden):
        raise ValueError(
            f"The aligner of {name!r} goes from width {config.feature_size} to {config.hidden_size}; its tower and "
            f"the language model have {part.settings['feature_size']} and {hidden}."
        )
    if count not in (None, config.num_tokens):
        raise ValueError(
            f"num_tokens={count} is set for {name!r}, but the aligner of {part.row['aligner']!r} has its own: "
            f"{config.num_tokens}. Set it there."
        )
    if config.sum_neighbours and config.num_tokens not in (None, 1):
        raise ValueError(
            f"The aligner of {name!r} adds neighbouring media into one token, but gives {config.num_tokens}."
        )
    parameter, was_training = next(part.aligner.parameters()), part.aligner.training
    shape = (
        1,
        part.row["num_frames"],
        part.row["feature_length"] or part.settings["probed_length"],
        config.feature_size,
    )
    counted = config.count_tokens(*shape[1:3])
    zeros = parameter.new_zeros
    table = {"token_embeddings": zeros(2, hidden)} if part.aligner.reads_token_embeddings else {}
    try:
        output = part.aligner.eval()(zeros(shape), **table)
        given = (output[0] if isinstance(output, tuple) else output).shape[1]
    except Exception as error:
        raise ValueError(f"The aligner of {name!r} cannot read features of shape {shape[1:]}: {error}") from error
    finally:
        part.aligner.train(was_training)
    if given != counted:
        raise ValueError(
            f"The aligner of {name!r} gives {given} tokens for features of shape {shape[1:]}, but counts {counted}."
        )
