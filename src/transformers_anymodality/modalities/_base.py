"""The spec of a modality: all facts about it for processor, collator, model, card and docs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from transformers import PreTrainedConfig
from transformers.processing_utils import TextKwargs

from ..utils.registry import Registry


# What a spec's `medium` and `processor_kind` may be. The first selects the half of a two-sided model.
MEDIA = ("pixels", "audio", "signal", "text")
PROCESSOR_KINDS = ("image_processor", "video_processor", "feature_extractor", "tokenizer")
MODALITIES: "Registry[ModalitySpec]" = Registry("modality")
# Names that would hide attributes that Transformers reads from a config or model.
_RESERVED = {"text", "decoder", "generator", "encoder", "language", "language_model", "backbone"}
_RESERVED |= {"quantization", "generation"}  # their `_config` is not that of a part


class UnknownModalityError(ValueError):
    """Media have a modality that a model does not have."""


@dataclass(frozen=True, kw_only=True)
class ModalitySpec:
    """Base class; a kind of media (`ImageSpec`, `SignalSpec`, `MapSpec`, ...) is a subclass, a modality an instance.

    A subclass sets `medium`, one of "pixels", "audio", "signal" and "text" (maps are pixels), and `processor_kind`, one of
    "image_processor", "video_processor", "feature_extractor" and "tokenizer".

    Args:
        name: also the `type` of its parts in chat messages, and the prefix `<name>_` of the model's children and inputs.
        argument: name of the processor's argument and of a data set's column; `name` by default.
        processor_attribute: the processor's attribute for the sub-processor; `<name>_<kind>` by default.
    """

    name: str
    argument: str = ""
    processor_attribute: str = ""

    medium = ""
    processor_kind = ""
    suffixes = ()  # file formats, for documentation and file choosers

    def __post_init__(self):
        if not self.argument:
            object.__setattr__(self, "argument", self.name)

    @property
    def token(self) -> str:
        """The placeholder token in text: one per medium in a prompt, one per language-model token in `input_ids`."""
        return f"<{self.name}>"

    @property
    def options(self) -> dict[str, Any]:
        """Options of reading and extracting that `compose` may set for a model, with their defaults."""
        return {}

    def default_processor(self, tower_config: PreTrainedConfig, options: dict[str, Any]) -> Any:
        """The sub-processor for a tower without one, or None if one must be given."""
        return None

    def is_item(self, value: Any) -> bool:
        """Whether `value` is one medium (rather than a list of media)."""
        return not isinstance(value, (list, tuple))

    def read(self, source: Any, processor: Any, options: dict[str, Any], **access) -> Any:
        """One decoded medium, from any source of its reader. `access`: `allow_urls` and `limits`, as in readers."""
        raise NotImplementedError

    def adapted(self, processor: Any, options: dict[str, Any]) -> Any:
        """The tower's sub-processor, changed as `options` ask."""
        return processor

    def most_frames(self, options: dict[str, Any]) -> int | None:
        """The maximum number of frames of an item, if `options` ask to cut it by its content; None if it is not cut."""
        return None

    def frames(self, item: Any, processor: Any, options: dict[str, Any]) -> list[Any]:
        """The frames of a read item that is cut, in the format of `extract`: windows of a recording, frames of a video.

        Raises:
            MediaError: there would be more than `options` allow.
        """
        return [item]

    def texts(self, item: Any, options: dict[str, Any]) -> list[str] | None:
        """The text before each frame of a read item that is cut; None for no text."""
        return None

    def share(self, frame: Any, processor: Any, options: dict[str, Any]) -> Fraction:
        """The share of the tower's input that a frame fills, above 0 and up to 1; the rest is padding."""
        return Fraction(1)

    def extract(self, items: list[Any], processor: Any, options: dict[str, Any], **kwargs) -> Mapping[str, Any]:
        """The sub-processor's own outputs for read items, or for their frames if these are cut; one row for each."""
        return processor(items, return_tensors="pt", **kwargs)

    def dummy(self, processor: Any, options: dict[str, Any], size: int = 0) -> Any:
        """A dummy input that `read` accepts; `size` 0 and 1 differ in resolution or duration, if that is possible."""
        raise NotImplementedError


def register_modality(spec: ModalitySpec, *, exist_ok: bool = False) -> ModalitySpec:
    """Registers a modality for `compose`, processors and models. A process that loads a checkpoint with such a modality
    must register it first. Raises ValueError for a spec that cannot work."""
    check_modality_name(spec.name)
    for field, allowed in (("medium", MEDIA), ("processor_kind", PROCESSOR_KINDS)):
        if (value := getattr(spec, field)) not in allowed:
            raise ValueError(
                f"`{field}` of {type(spec).__name__} is {value!r}; it must be one of {', '.join(map(repr, allowed))}. "
                "Set it in the body of the class."
            )
    if spec.argument in ("text", *TextKwargs.__annotations__):
        raise ValueError(
            f"The argument {spec.argument!r} of modality {spec.name!r} is the tokenizer's; choose another."
        )
    for other in map(MODALITIES.__getitem__, MODALITIES):
        if other.argument == spec.argument and other.name != spec.name:
            raise ValueError(
                f"The argument {spec.argument!r} of modality {spec.name!r} already belongs to {other.name!r}."
            )
    return MODALITIES.register(spec.name, spec, exist_ok=exist_ok)


def check_modality_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name.endswith(("_aligner", "_tower", "_config")):
        raise ValueError(
            f"Modality name {name!r} must be lower-case letters, digits and underscores, and not end in _aligner, "
            "_tower or _config."
        )
    if name in _RESERVED:
        raise ValueError(
            f"Modality name {name!r} is reserved by Transformers; choose another, such as {name + '_in'!r}."
        )
