"""Reads processor_config.json: the settings of modalities and sub-processors, all checked."""

import os
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

import transformers
from transformers import AutoTokenizer, FeatureExtractionMixin, ImageProcessingMixin

from anymodality.plain.table import main_input_first

from ..modalities import MODALITIES
from ..model.configuration import as_config
from ..utils.checked import ConfigError, check_fields, check_flags, check_numbers, read_from
from ..utils.upstream import registered_processors
from .media_inputs import CONFIGS, ModalityInputs


# The smallest valid numbers in the table, and the most tokens of one medium.
_LEAST = {"num_tokens": 1, "num_frames": 1, "feature_length": 1, "unit": 1}
_MOST_TOKENS = 2**17
# The types of options; options of modalities from other packages are not checked.
_OPTIONS = {
    **dict.fromkeys(("windows", "tiles", "max_tokens", "max_pixels", "min_pixels", "pad_to_multiple_of"), int | None),
    **dict.fromkeys(("num_frames", "max_frames"), int),
    **dict.fromkeys(("sampling_rate", "overlap"), float),
    **dict.fromkeys(("fps", "seconds"), float | None),
    "value_range": list[float] | None,
}


def modality_inputs(modality: str, given: Mapping[str, Any]) -> ModalityInputs:
    """The inverse of `ModalityInputs.to_dict`, also through JSON.

    Raises:
        ConfigError: a key is unknown or missing, a value has the wrong type, or the config of a tower or an aligner is
            invalid.
    """
    where, known = f"modalities.{modality}", {field.name for field in fields(ModalityInputs)}
    if not isinstance(given, Mapping) or given.keys() - known or {"token", "processor", "inputs"} - given.keys():
        raise ConfigError(
            f"`{where}` is {given!r:.80}; it must be a table with `token`, `processor` and `inputs`; other keys may "
            f"only be {', '.join(sorted(known))}."
        )
    check_fields(where, {**given, **dict.fromkeys(CONFIGS)}, get_type_hints(ModalityInputs), _LEAST)
    if (given.get("num_tokens") or 0) > _MOST_TOKENS:
        raise ConfigError(f"`{where}.num_tokens` is {given['num_tokens']}, more than {_MOST_TOKENS} for one medium.")
    if not given["inputs"]:
        raise ConfigError(f"`{where}.inputs` is empty; it must name the model's inputs.")
    if given.get("num_tokens") is None and given.get("aligner") is None:
        raise ConfigError(f"`{where}` has no `num_tokens`, and no config of an `aligner` that gives their number.")
    options = given.get("options") or {}
    _check_options(where, modality, options)
    values: dict[str, Any] = {**given, "inputs": main_input_first(modality, given["inputs"])}
    values["options"] = {**MODALITIES[modality].options, **options}
    for key in CONFIGS:
        if given.get(key) is not None:
            values[key] = as_config(f"{modality}: {key}", given[key])
    return ModalityInputs(**values)


def _check_options(where: str, modality: str, options: Mapping[str, Any]) -> None:
    """Raises ConfigError for an option that the modality does not have, or one of another type than its default."""
    known = {**MODALITIES[modality].options, **dict.fromkeys(("pad_to_multiple_of", "max_tokens"))}
    if unknown := sorted(options.keys() - known.keys()):
        raise ConfigError(
            f"`{where}.options` has {', '.join(unknown)}, which {modality} does not read; known: {', '.join(known)}."
        )
    hints = {name: _OPTIONS.get(name, bool if isinstance(default, bool) else Any) for name, default in known.items()}
    check_fields(f"{where}.options", options, {name: hints[name] for name in options}, dict.fromkeys(_OPTIONS, 0))


def load_parts(source: str | os.PathLike, settings: Mapping[str, Any], **kwargs: Any) -> list[Any]:
    """The tokenizer of a checkpoint, and its sub-processors by their attributes.

    Args:
        settings: the content of processor_config.json.
        kwargs: of `from_pretrained`; sub-processors in them are not loaded.
    """
    check_fields("config", {"modalities": settings["modalities"]}, {"modalities": dict[str, dict]}, {})
    for modality in settings["modalities"]:
        MODALITIES[modality]  # the tokenizer's loading would first warn about a config that it cannot read
    names = sorted({str(row.get("processor")) for row in settings["modalities"].values()})
    given = {name: kwargs.pop(name) for name in names if name in kwargs}
    tokenizer = AutoTokenizer.from_pretrained(source, **kwargs)
    loaded = {name: _sub_processor(source, name, settings, kwargs) for name in names if name not in given}
    return [tokenizer, {**loaded, **given}]


def _sub_processor(source: str | os.PathLike, name: str, settings: Mapping[str, Any], kwargs: dict[str, Any]) -> Any:
    if re.fullmatch(r"\w+_tokenizer", name):
        folder = os.path.join(kwargs.get("subfolder", ""), name)
        return AutoTokenizer.from_pretrained(source, **{**kwargs, "subfolder": folder})
    if name not in settings:
        raise ValueError(f"The processor's config lacks {name!r}, which its modalities need: save it again.")
    check_fields("config", {name: settings[name]}, {name: dict}, {})
    check_numbers(name, settings[name], finite=True)
    own = {key: kwargs.get(key, value) for key, value in settings[name].items()}
    kinds = (f"{kind}_type" for kind in ("image_processor", "video_processor", "feature_extractor"))
    kind = next((kind for kind in kinds if kind in own), None)
    if kind is None:
        raise ConfigError(f"`{name}` does not say its class, as `feature_extractor_type` or the like.")
    with read_from(f"`{name}`"):
        preparing = _sub_processor_class(own[kind], kind)
        check_flags(name, own, preparing)
        return preparing(**own)


def _sub_processor_class(name: str, kind: str) -> type:
    """The class of that name, which must prepare media; `kind` is the config's key for it. Transformers' own look-up fails
    for classes that were registered for images or videos, because the Auto classes keep these by backend."""
    for cls in registered_processors():
        if getattr(cls, "__name__", None) == name:
            return cls
    found = getattr(transformers, name, None)
    if not (isinstance(found, type) and issubclass(found, (ImageProcessingMixin, FeatureExtractionMixin))):
        auto_class = f"Auto{kind.removesuffix('_type').title().replace('_', '')}"
        raise ValueError(
            f"The processor's config names {name!r}, which is not a known image processor or feature extractor. If it is "
            f"your own, register it, {auto_class}.register(YourConfig, {name}), in a module that is imported before "
            "loading (in commands: --import MODULE)."
        )
    return found
