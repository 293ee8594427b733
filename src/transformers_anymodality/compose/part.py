"""One modality while it is composed: its settings, and its tower, sub-processor and aligner, found, loaded or built."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    AutoVideoProcessor,
    PreTrainedModel,
)

from ..aligners import ALIGNERS, Aligner, AlignerConfig
from ..modalities import MODALITIES, ModalitySpec
from ..model.configuration import SELECT_FEATURES, ModalityConfig
from ..towers import check_main_input, load_tower
from ..towers.timm import stock_image_processor
from ..utils.registry import did_you_mean
from .small import on_cpu


_AUTO_PROCESSORS = {
    "image_processor": (AutoImageProcessor,),
    "video_processor": (AutoVideoProcessor, AutoImageProcessor),
    "feature_extractor": (AutoFeatureExtractor,),
    "tokenizer": (AutoTokenizer,),
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Settings of a modality, as `compose` describes them; `options` are the given options of its spec."""

    tower: Any
    aligner: Any = "perceiver_resampler"
    num_tokens: int | None = None
    processor: Any = None
    select_layer: int | None = None
    select_feature: str | None = None
    per_frame: bool | None = None
    token: str
    revision: str | None = None
    options: dict[str, Any]

    def loading(self, load: dict[str, Any]) -> dict[str, Any]:
        """The loading arguments for its tower."""
        return {**load, **({"revision": self.revision} if self.revision else {})}


def read_settings(modalities: Mapping[str, Any]) -> dict[str, Asked]:
    """The settings of each modality, in alphabetical order. Raises ValueError for unknown or impossible settings."""
    asked = {name: _read(name, value) for name, value in sorted(modalities.items())}
    owners: dict[int, str] = {}
    for name, one in asked.items():
        if isinstance(one.tower, str) and one.tower in set(MODALITIES) - set(asked):
            raise ValueError(f"Modality {name!r} borrows the tower of {one.tower!r}, which is not being composed.")
        # A tower is saved once, under the name of the modality that it belongs to.
        owner = owners.setdefault(id(one.tower), name)
        if isinstance(one.tower, nn.Module) and owner != name:
            raise ValueError(
                f"{name!r} and {owner!r} are given the same tower object: let one borrow it, "
                f'"{name}": {{"tower": "{owner}"}}, or give each its own.'
            )
    return asked


def _read(name: str, value: Any) -> Asked:
    spec = MODALITIES[name]
    given: dict[str, Any] = dict(value) if isinstance(value, dict) else {"tower": value}
    if given.get("tower") is None:
        raise ValueError(f"Modality {name!r} needs a `tower`.")
    options = {key: given.pop(key) for key in spec.options if key in given}
    known = {field.name for field in fields(Asked)} - {"options"}
    if unknown := sorted(set(given) - known):
        known |= set(spec.options)
        raise ValueError(
            f"Unknown settings {unknown} for modality {name!r}.{did_you_mean(unknown[0], known)} "
            f"Known: {', '.join(sorted(known))}."
        )
    given = {"token": spec.token, **{key: one for key, one in given.items() if one is not None}}
    asked = Asked(**given, options=options)
    if asked.select_feature not in (None, *SELECT_FEATURES):
        raise ValueError(
            f"select_feature of {name!r} is {asked.select_feature!r}; it must be one of {', '.join(SELECT_FEATURES)}."
        )
    count = asked.num_tokens
    if count is not None and (not isinstance(count, int) or count < 1):
        raise ValueError(f"num_tokens of {name!r} is {count!r}; it must be an integer of at least 1.")
    return asked


# Layer, features, whether they are one row, whether channels come first: arguments of `run_tower`.
Reading = tuple[int | None, str, bool, bool | None]


@dataclass
class Trial:
    """What a dummy input has shown about a tower.

    Attributes:
        tower: the tower that ran: the modality's own, or a small copy of one without weights.
        arguments: arguments of its forward, for an item.
        features: its features, `(1 or frames, length, dim)`, or `(features, dim)` if it gives all items as one row.
        length, width: shape of the features from the modality's own tower.
        unread: weights that features do not depend on, by name.
        reading: arguments of `run_tower`.
        marks_padding: the tower's mask that is 1 where there is padding.
        one_size: only items of one size are read together, because padding changes their features.
        sizes: the sub-processor's output whose rows give the features of an item: their product divided by `unit`.
        smallest: the sub-processor's outputs for the smallest item, if that is smaller than a dummy input.
    """

    tower: PreTrainedModel
    arguments: dict[str, torch.Tensor]
    features: torch.Tensor
    length: int
    width: int
    unread: set[str]
    reading: Reading
    marks_padding: str | None = None
    one_size: bool = False
    sizes: str | None = None
    unit: int = 1
    smallest: dict[str, torch.Tensor] | None = None


@dataclass
class Part:
    """One modality while it is composed.

    Attributes:
        config: its settings in the model.
        tower, options, found, processor, attribute: from `add_tower` on; `options` are those of its media, `processor` is
            the sub-processor `found` with these options, `attribute` is its name in the composite's processor.
        arguments, trial: from `try_tower` on; `arguments` is the sub-processor's name of an input -> the tower's argument.
        cut: likewise; whether the modality's spec cuts items into frames.
        frame_counts, trimmed: likewise, as in the processor.
        aligner: from `add_aligner` on.
    """

    name: str
    asked: Asked
    config: ModalityConfig
    tower: PreTrainedModel = field(init=False)
    options: dict[str, Any] = field(init=False)
    found: Any = field(init=False)
    processor: Any = field(init=False)
    attribute: str = field(init=False)
    arguments: dict[str, str] = field(init=False)
    trial: Trial = field(init=False)
    cut: bool = False
    frame_counts: str | None = None
    trimmed: bool = False
    aligner: Aligner = field(init=False)

    @property
    def spec(self) -> ModalitySpec:
        return MODALITIES[self.name]

    def owns(self, role: Literal["tower", "aligner"]) -> bool:
        """Whether its tower or aligner is not borrowed."""
        return getattr(self.config, role) == self.name


def lenders_first(parts: dict[str, Part], role: Literal["tower", "aligner"]) -> list[tuple[Part, Part | None]]:
    """Pairs of a part and the part that lends it its tower or aligner (None: it has its own).

    Raises ValueError if it borrows from itself, or from a borrower.
    """
    lenders: dict[str, Part | None] = {}
    for name, part in parts.items():
        named = getattr(part.asked, role)
        borrows = isinstance(named, str) and (role == "tower" or named not in ALIGNERS)
        lenders[name] = parts.get(named) if borrows else None
    for name, lender in lenders.items():
        if lender is parts[name]:
            raise ValueError(f"Modality {name!r} cannot borrow its own {role}.")
        if lender is not None and lenders[lender.name] is not None:
            raise ValueError(
                f"Modality {name!r} borrows the {role} of {lender.name!r}, which is itself borrowed: borrow from its owner."
            )
    return sorted(((part, lenders[name]) for name, part in parts.items()), key=lambda pair: pair[1] is not None)


# --- towers --------------------------------------------------------------------------------------------------------


def add_tower(part: Part, lender: Part | None, load: dict[str, Any]) -> None:
    """Finds tower and sub-processor, and sets the options of reading that depend on them."""
    asked, owner = part.asked, lender or part
    if asked.select_layer not in (None, owner.asked.select_layer):
        raise ValueError(f"{part.name!r} sets select_layer of a borrowed tower: set it in modality {owner.name!r}.")
    part.config.tower, part.config.select_layer = owner.name, owner.asked.select_layer
    part.options = {**part.spec.options, **asked.options}
    if lender is None:
        load = asked.loading(load)
        part.tower = load_tower(asked.tower, part.spec.medium, asked.select_layer, **load)
        check_main_input(part.tower)
    else:
        part.tower = lender.tower
    shared = lender is not None and asked.processor is None
    part.found = lender.found if shared else _find_processor(part, load)
    if shared and lender.config.grid and part.spec.processor_kind == "video_processor":
        part.found = _video_processor(lender, load) or lender.found
    part.processor = part.spec.adapted(part.found, part.options)
    limited = any(one.options.get("max_tokens") for one in (owner, part))  # its processor will be changed
    same = shared and part.processor is lender.processor and not limited
    part.attribute = lender.attribute if same else _attribute(part)
    frames = getattr(part.tower.config, "num_frames", None)
    if "num_frames" in part.options and "num_frames" not in asked.options and isinstance(frames, int):
        part.options["num_frames"] = frames
    _check_options(part)


def _attribute(part: Part) -> str:
    name, kind = type(part.processor).__name__.lower(), part.spec.processor_kind
    kind = next((k for k in ("image_processor", "video_processor") if k.replace("_", "") in name), kind)
    primary = "video_processor" if (part.name, kind) == ("video", "video_processor") else ""
    return part.spec.processor_attribute or primary or f"{part.name}_{kind}"


def check_attributes(parts: Iterable[Part]) -> None:
    """Raises ValueError if two sub-processors would have the same name."""
    owners: dict[str, Part] = {}
    for part in parts:
        owner = owners.setdefault(part.attribute, part)
        if owner.processor is not part.processor:
            raise ValueError(
                f"{owner.name!r} and {part.name!r} have different processors with the same name {part.attribute!r}. "
                "Let one borrow the other's tower, or leave out `processor_attribute` in its spec."
            )


def _check_options(part: Part) -> None:
    """Raises ValueError for options that contradict the sub-processor."""
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
    place = given or (source if isinstance(source, (str, os.PathLike)) else part.tower.config.name_or_path)
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
            + ': pass it as "processor".'
        )
    return default if default is not None else timm


@on_cpu()
def _video_processor(part: Part, load: dict[str, Any]) -> Any:
    """The video processor of a tower that reads videos as patches, like images; None if it has none."""
    place = part.asked.processor or part.asked.tower
    place = place if isinstance(place, (str, os.PathLike)) else part.tower.config.name_or_path
    with suppress(OSError, ValueError, KeyError, TypeError):
        load = {key: value for key, value in part.asked.loading(load).items() if key != "dtype"}
        return AutoVideoProcessor.from_pretrained(place, **load) if place else None
    return None


# --- aligners ------------------------------------------------------------------------------------------------------


def add_aligner(part: Part, lender: Part | None, hidden: int) -> None:
    """Finds or builds the aligner, for a language model of width `hidden`."""
    part.config.aligner = (lender or part).name
    part.aligner = _build_aligner(part, hidden) if lender is None else lender.aligner


def _build_aligner(part: Part, hidden: int) -> Aligner:
    wanted = part.asked.aligner
    if isinstance(wanted, Aligner):
        return wanted
    if isinstance(wanted, AlignerConfig):
        return AutoModel.from_config(wanted)
    settings = {"type": wanted} if isinstance(wanted, str) else wanted
    if not isinstance(settings, Mapping) or not isinstance(settings.get("type"), str):
        shown = "a dict without a type" if isinstance(settings, Mapping) else type(wanted).__name__
        raise ValueError(
            f'The aligner of {part.name!r} must be a name, {{"type": name, ...}}, a config or a module, not {shown}.'
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
