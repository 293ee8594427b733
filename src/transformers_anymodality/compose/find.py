"""A modality's tower, sub-processor and aligner: found, loaded or built."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoModel, AutoTokenizer, AutoVideoProcessor

from ..aligners import ALIGNERS, Aligner, AlignerConfig
from ..towers import load_tower
from ..towers.timm import stock_image_processor
from ..utils.registry import did_you_mean
from ..utils.upstream import name_or_path
from .part import Part
from .small import on_cpu


_AUTO_PROCESSORS = {
    "image_processor": (AutoImageProcessor,),
    "video_processor": (AutoVideoProcessor, AutoImageProcessor),
    "feature_extractor": (AutoFeatureExtractor,),
    "tokenizer": (AutoTokenizer,),
}


# --- towers --------------------------------------------------------------------------------------------------------


def add_tower(part: Part, lender: Part | None, load: dict[str, Any]) -> None:
    """Finds tower and sub-processor, and settles the options of reading that depend on them."""
    asked, owner = part.asked, lender or part
    if asked.select_layer not in (None, owner.asked.select_layer):
        raise ValueError(f"select_layer of a borrowed tower is set where it belongs, in modality {owner.name!r}.")
    part.config.tower, part.config.select_layer = owner.name, owner.asked.select_layer
    if lender is None:
        load = {**load, **({"revision": asked.revision} if asked.revision else {})}
        part.tower = load_tower(asked.tower, part.spec.medium, asked.select_layer, **load)
    else:
        part.tower = lender.tower
    if lender is not None and asked.processor is None:
        part.processor, part.attribute = lender.processor, lender.attribute
    else:
        part.processor = _find_processor(part, load)
        part.attribute = _attribute(part)
    frames = getattr(part.tower.config, "num_frames", None)
    if "num_frames" in part.options and "num_frames" not in part.asked.options and isinstance(frames, int):
        part.options["num_frames"] = frames
    _check_options(part)


def _attribute(part: Part) -> str:
    """Where the processor keeps the sub-processor."""
    name, kind = type(part.processor).__name__.lower(), part.spec.processor_kind
    kind = next((k for k in ("image_processor", "video_processor") if k.replace("_", "") in name), kind)
    primary = "video_processor" if (part.name, kind) == ("video", "video_processor") else ""
    return part.spec.processor_attribute or primary or f"{part.name}_{kind}"


def check_attributes(parts: Iterable[Part]) -> None:
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
    for option in sorted(part.asked.options) if default is not None else ():
        name = "num_samples" if option == "seconds" else option
        ours, theirs = (np.asarray(getattr(one, name, None)) for one in (default, part.processor))
        if not np.array_equal(ours, theirs):
            raise ValueError(
                f"Modality {part.name!r} is set to {name}={ours}, but its {type(part.processor).__name__} has "
                f"{name}={theirs}. Change or leave out one of them."
            )


@on_cpu()
def _find_processor(part: Part, load: dict[str, Any]) -> Any:
    given, kind, source = part.asked.processor, part.spec.processor_kind, part.asked.tower
    if given is not None and not isinstance(given, (str, os.PathLike)):
        return given
    place = given or (source if isinstance(source, (str, os.PathLike)) else name_or_path(part.tower.config))
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


# --- aligners ------------------------------------------------------------------------------------------------------


def add_aligner(part: Part, lender: Part | None, hidden: int) -> None:
    """Finds or builds the aligner, for a language model of width `hidden`."""
    part.config.aligner = (lender or part).name
    if lender is None:
        part.aligner = _build_aligner(part, hidden)
        return
    part.aligner, reads = lender.aligner, lender.aligner.config.feature_size
    if reads != part.trial.width:
        raise ValueError(
            f"Modality {part.name!r} has features of width {part.trial.width}, but the aligner of {lender.name!r} reads "
            f"{reads}."
        )


def _build_aligner(part: Part, hidden: int) -> Aligner:
    wanted = part.asked.aligner
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
    config_class: Any = ALIGNERS[settings["type"]].config_class
    settings = {key: value for key, value in settings.items() if key != "type"}
    if unknown := sorted(set(settings) - (known := {field.name for field in fields(config_class)})):
        raise ValueError(
            f"Unknown settings {unknown} for the aligner of {part.name!r} ({config_class.__name__})."
            f"{did_you_mean(unknown[0], known)}"
        )
    sizes = {
        "feature_size": part.trial.width,
        "hidden_size": hidden,
        "feature_length": part.config.feature_length,
        "num_frames": part.config.num_frames,
    }
    if part.asked.num_tokens is not None:
        sizes["num_tokens"] = part.asked.num_tokens
    return AutoModel.from_config(config_class(**{**sizes, **settings}))
