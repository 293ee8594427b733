"""The spec of a modality: everything that processor, collator, model, card and docs need to know about it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from transformers import PreTrainedConfig
from transformers.processing_utils import TextKwargs

from ..utils.registry import Registry


MODALITIES: "Registry[ModalitySpec]" = Registry("modality")
# Names that would shadow what Transformers looks for in a config or model.
_RESERVED = {"text", "decoder", "generator", "encoder", "language", "language_model", "backbone"}
_RESERVED |= {"quantization", "generation"}  # whose `_config` is not that of a part


class UnknownModalityError(ValueError):
    """Media are of a modality that a model lacks."""


@dataclass(frozen=True, kw_only=True)
class ModalitySpec:
    """Base class; a kind of media (stills, videos, sound, signals, maps, text) is a subclass, a modality an instance.

    Args:
        name: also the `type` of its parts in chat messages, and the `<name>_` of the model's children and inputs.
        argument: name of the processor's argument and of a data set's column; the name itself unless told.
        processor_attribute: where the processor keeps the sub-processor; `<name>_<kind>` unless told.
    """

    name: str
    argument: str = ""
    processor_attribute: str = ""

    medium = ""  # which half of a two-sided model reads it: "pixels", "audio", "signal" or "text"
    processor_kind = ""  # "image_processor", "video_processor", "feature_extractor" or "tokenizer"
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
        """The sub-processor for a tower that brings none, or None where one must be given."""
        return None

    def is_item(self, value: Any) -> bool:
        """Whether `value` is one medium (rather than a list of media)."""
        return not isinstance(value, (list, tuple))

    def read(self, source: Any, processor: Any, options: dict[str, Any], **access) -> Any:
        """One medium, decoded, from all that its reader takes. `access`: `allow_urls` and `limits`, as readers take them."""
        raise NotImplementedError

    def adapted(self, processor: Any, options: dict[str, Any]) -> Any:
        """The sub-processor that `options` ask for, made of the tower's own."""
        return processor

    def most_frames(self, options: dict[str, Any]) -> int | None:
        """How many frames an item may have, where `options` ask for it to be cut into as many as its content asks for; None
        where it is not cut."""
        return None

    def frames(self, item: Any, processor: Any, options: dict[str, Any]) -> list[Any]:
        """The frames of a read item that is cut, each as `extract` takes it: windows of a recording, frames of a video.

        Raises:
            MediaError: there would be more than `options` allow.
        """
        return [item]

    def texts(self, item: Any, options: dict[str, Any]) -> list[str] | None:
        """What stands in the text before each frame of a read item that is cut; None for nothing."""
        return None

    def share(self, frame: Any, processor: Any, options: dict[str, Any]) -> Fraction:
        """How much of what the tower reads at one go a frame fills, above 0 and up to 1; the rest is padding."""
        return Fraction(1)

    def extract(self, items: list[Any], processor: Any, options: dict[str, Any], **kwargs) -> Mapping[str, Any]:
        """The sub-processor's own outputs for read items, or for their frames where these are cut; one row for each."""
        return processor(items, return_tensors="pt", **kwargs)

    def dummy(self, processor: Any, options: dict[str, Any], size: int = 0) -> Any:
        """A dummy input that `read` accepts; `size` 0 and 1 differ in resolution or duration where they may."""
        raise NotImplementedError


def register_modality(spec: ModalitySpec, *, exist_ok: bool = False) -> ModalitySpec:
    """Makes a modality known by its name to `compose`, processors and models. A process that loads a checkpoint with
    such a modality must register it first."""
    check_modality_name(spec.name)
    if spec.argument in ("text", *TextKwargs.__annotations__):
        raise ValueError(
            f"The argument {spec.argument!r} of modality {spec.name!r} is the tokenizer's; choose another."
        )
    for other in map(MODALITIES.__getitem__, MODALITIES):
        if other.argument == spec.argument and other.name != spec.name:
            raise ValueError(
                f"The argument {spec.argument!r} of modality {spec.name!r} is that of {other.name!r} already."
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
