"""The processor's half that deals with media: their arguments, their reading, and the tokens that they need."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import chain
from math import ceil
from typing import Any, get_type_hints

import numpy as np
import torch
import transformers
from transformers import FeatureExtractionMixin, ImageProcessingMixin, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.processing_utils import MultiModalData, TextKwargs

from anymodality.plain.table import main_input_first

from ..modalities import MODALITIES, MediaError, ModalitySpec
from ..model.by_size import INPUT_SIZES, joined
from ..model.configuration import SIZES, as_config, item_lengths
from ..model.frames import in_rows
from ..towers import feature_length
from ..utils.checked import ConfigError, check_fields
from ..utils.registry import did_you_mean
from ..utils.tensors import padded_to_multiple, row_counts
from ..utils.upstream import registered_processors
from .tokenization import PromptTokenizer


# Of the numbers in the table, the smallest that makes sense, and tokens of one medium at most.
_LEAST = {"num_tokens": 1, "num_frames": 1, "feature_length": 1, "unit": 1}
_MOST_TOKENS = 2**17
# Of options, what they may be; those of modalities that others register are not checked.
_OPTIONS = {
    **dict.fromkeys(("windows", "tiles", "max_tokens", "max_pixels", "min_pixels", "pad_to_multiple_of"), int | None),
    **dict.fromkeys(("num_frames", "max_frames"), int),
    **dict.fromkeys(("sampling_rate", "overlap"), float),
    **dict.fromkeys(("fps", "seconds"), float | None),
    "value_range": list[float] | None,
}
# The tokenizer's keyword arguments; all others are a sub-processor's.
TEXT_KWARGS = frozenset(TextKwargs.__annotations__)
# Ours, and what Transformers' own code gives to every processor.
_OUR_KWARGS = frozenset(("allow_urls", "limits", "sampling_rate"))
_STOCK_KWARGS = frozenset(("images_kwargs", "videos_kwargs", "audio_kwargs", "return_metadata", "device"))
_CONFIGS = ("tower", "aligner")
_DECIDED = frozenset(("return_tensors", "sampling_rate", "do_sample_frames"))  # by the modality's spec


@dataclass(frozen=True, kw_only=True)
class ModalityInputs:
    """How the processor makes model inputs of a modality's media.

    Args:
        token: the placeholder token in text.
        processor: attribute of the processor that holds the sub-processor.
        inputs: name of a model input -> the sub-processor's name of it; the main input first.
        options: of reading and extracting, as the modality's spec takes them; and `pad_to_multiple_of`, of a tower that
            takes only multiples of so many steps.
        num_tokens: language-model tokens of each medium; None where they differ.
        num_frames: frames of each medium; None where they differ.
        frame_counts: the sub-processor's output that says how many; None where the modality's spec cuts media into frames.
        feature_length: features that the tower gives for a frame; None where they differ.
        trimmed: of a frame that is filled in part, as large a part of its features is kept.
        sizes: the sub-processor's output whose rows, multiplied up and divided by `unit`, are features of a frame.
        packed: the tower gives the features of all frames as one row.
        grid: model input that says how many rows of the main input each frame has; None where each has one.
        channels_first: the tower gives features as `(items, dim, length)`; None where their sizes tell.
        tower, aligner: their configs, which tell the number of features and of tokens; None where these are known.
    """

    token: str
    processor: str
    inputs: dict[str, str]
    options: dict[str, Any] = field(default_factory=dict)
    num_tokens: int | None = None
    num_frames: int | None = 1
    frame_counts: str | None = None
    feature_length: int | None = None
    trimmed: bool = False
    sizes: str | None = None
    unit: int = 1
    packed: bool = False
    grid: str | None = None
    channels_first: bool | None = None
    tower: PreTrainedConfig | None = None
    aligner: PreTrainedConfig | None = None

    @property
    def main_input(self) -> str:
        return next(iter(self.inputs))

    @property
    def tells_lengths(self) -> bool:
        """Whether the features of frames differ, and stand among the model inputs."""
        return self.num_tokens is None and (self.feature_length is None or self.trimmed)

    @classmethod
    def from_dict(cls, modality: str, given: Mapping[str, Any]) -> "ModalityInputs":
        """Of what `to_dict` gave, also by way of JSON.

        Raises:
            ConfigError: a key that is not known or lacks, or a value of another type; or the config of a tower or an
                aligner makes no sense.
        """
        where, known = f"modalities.{modality}", {field.name for field in fields(cls)}
        if not isinstance(given, Mapping) or given.keys() - known or {"token", "processor", "inputs"} - given.keys():
            raise ConfigError(
                f"`{where}` is {given!r:.80}; it must be a table with `token`, `processor` and `inputs`, and of other keys "
                f"only {', '.join(sorted(known))}."
            )
        check_fields(where, {**given, **dict.fromkeys(_CONFIGS)}, get_type_hints(cls), _LEAST)
        if (given.get("num_tokens") or 0) > _MOST_TOKENS:
            raise ConfigError(
                f"`{where}.num_tokens` is {given['num_tokens']}, more than {_MOST_TOKENS} for one medium."
            )
        if not given["inputs"]:
            raise ConfigError(f"`{where}.inputs` is empty; it must name the model's inputs.")
        if given.get("num_tokens") is None and given.get("aligner") is None:
            raise ConfigError(
                f"`{where}` has no `num_tokens`, and no config of the `aligner` that tells how many there are."
            )
        options = given.get("options") or {}
        _check_options(where, modality, options)
        values: dict[str, Any] = {**given, "inputs": main_input_first(modality, given["inputs"])}
        values["options"] = {**MODALITIES[modality].options, **options}
        for key in _CONFIGS:
            if given.get(key) is not None:
                values[key] = as_config(f"{modality}: {key}", given[key])
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        configs = {key: values.pop(key) for key in _CONFIGS}
        return {**values, **{key: config.to_dict() for key, config in configs.items() if config is not None}}


def _check_options(where: str, modality: str, options: Mapping[str, Any]) -> None:
    """Raises ConfigError for an option that the modality does not have, or one of another kind than its default."""
    known = {**MODALITIES[modality].options, **dict.fromkeys(("pad_to_multiple_of", "max_tokens"))}
    if unknown := sorted(options.keys() - known.keys()):
        raise ConfigError(
            f"`{where}.options` has {', '.join(unknown)}, which {modality} does not read; known: {', '.join(known)}."
        )
    hints = {name: _OPTIONS.get(name, bool if isinstance(default, bool) else Any) for name, default in known.items()}
    check_fields(f"{where}.options", options, {name: hints[name] for name in options}, dict.fromkeys(_OPTIONS, 0))


def extract(
    spec: ModalitySpec, items: list[Any], processor: Any, options: dict[str, Any], **kwargs
) -> dict[str, torch.Tensor]:
    """The sub-processor's outputs for read items, under its own names; only arrays and whole numbers."""
    try:
        outputs = spec.extract(items, processor, options, **kwargs)
        inputs = {}
        for name, value in outputs.items():
            if isinstance(value, (torch.Tensor, np.ndarray)):
                inputs[name] = torch.as_tensor(value)
            elif isinstance(value, list) and value and isinstance(value[0], (torch.Tensor, np.ndarray)):
                inputs[name] = torch.stack([torch.as_tensor(v) for v in value])
            elif isinstance(value, list) and value and all(isinstance(one, int) for one in value):
                inputs[name] = torch.tensor(value)
        multiple: Any = options.get("pad_to_multiple_of")
        return padded_to_multiple(inputs, multiple) if multiple else inputs
    except MediaError:
        raise
    except (OSError, ImportError, MemoryError):
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0]
        if len(items) == 1:
            raise ValueError(
                f"{type(processor).__name__} cannot prepare this {spec.name} ({type(error).__name__}: {reason}). Its "
                "settings are in processor_config.json."
            ) from error
        raise MediaError(
            f"{len(items)} {spec.argument} cannot be put into one batch: {reason}. If "
            f"{type(processor).__name__} does not resize them to one size, do so yourself, or give them in "
            "separate batches."
        ) from error


class MediaMixin:
    modalities: dict[str, ModalityInputs]
    sub_processor_names: list[str]
    prompt_tokenizer: PromptTokenizer

    def sub_processor(self, modality: str) -> Any:
        """What prepares the media of a modality: an image processor, a feature extractor, ..."""
        return getattr(self, self.modalities[modality].processor)

    def process_media(
        self, media: Mapping[str, list[Any]], **kwargs
    ) -> tuple[dict[str, torch.Tensor], dict[str, list[int]]]:
        """Reads and prepares media.

        Args:
            media: modality -> its media over the whole batch, in the order of placeholders.

        Returns:
            Model inputs, one row per medium; and modality -> tokens that each of its media needs.
        """
        self.check_media_kwargs(kwargs)
        access = {name: kwargs.pop(name) for name in ("allow_urls", "limits") if name in kwargs}
        rates = kwargs.pop("sampling_rate", None) or (kwargs.get("audio_kwargs") or {}).get("sampling_rate")
        inputs, token_counts = {}, {}
        for name, sources in media.items():
            if sources:
                extra = self._media_kwargs(name, kwargs)
                items = [self._read(name, i, source, access, rates) for i, source in enumerate(sources)]
                inputs.update(own := self._extract(name, items, extra))
                self._check_finite(name, items, own)
                self._check_most(name, self.num_tokens(name, inputs))
                token_counts[name] = self._spelled(name, items, inputs)
        return inputs, token_counts

    def _check_finite(self, modality: str, items: list[Any], inputs: dict[str, torch.Tensor]) -> None:
        """Raises MediaError where the sub-processor made NaN or infinity of floats; whole numbers are too small for that."""
        values, frames = inputs[self.modalities[modality].main_input], inputs.get(f"{modality}_frames")
        read = [item[0] if isinstance(item, tuple) else item for item in items]
        if (
            not any(isinstance(one, np.ndarray) and one.dtype.kind == "f" for one in read)
            or not values.is_floating_point()
            or values.sum().isfinite()  # a fraction of the time of looking at each
            or values.isfinite().all()
        ):
            return
        place = (~values.isfinite()).nonzero()[0].tolist()
        counts = torch.ones(len(values), dtype=torch.long) if frames is None else frames
        item = int((counts.cumsum(0) <= place[0]).sum())
        raise MediaError(
            f"{modality} {item}: {type(self.sub_processor(modality)).__name__} makes {values[tuple(place)].item()} of it, "
            f"at {place[1:]} of what the tower reads: its values are too large. Scale them to their usual range."
        )

    def _check_most(self, modality: str, counts: list[int]) -> None:
        most: Any = self.modalities[modality].options.get("max_tokens")
        for i, count in enumerate(counts):
            if most is not None and count > most:
                raise MediaError(
                    f"{modality} {i} needs {count} tokens, and may have {most} (max_tokens). Scale it down."
                )

    def _spelled(self, modality: str, items: list[Any], inputs: dict[str, torch.Tensor]) -> list[int]:
        """Tokens that each item needs, with the texts between its frames."""
        own, counts = self.modalities[modality], self.num_tokens(modality, inputs)
        if own.num_frames is not None:
            return counts
        texts = [MODALITIES[modality].texts(item, own.options) for item in items]
        if all(text is None for text in texts):
            return counts
        config: Any = own.aligner
        lengths = item_lengths(self._sizes(modality, inputs), own.num_frames, own.feature_length)
        return [
            count
            if text is None
            else self.prompt_tokenizer.spell(modality, text, [config.count_item_tokens([n]) for n in frames])
            for count, text, frames in zip(counts, texts, lengths, strict=True)
        ]

    @staticmethod
    def _sizes(modality: str, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {key: inputs[name] for key in SIZES if (name := f"{modality}_{key}") in inputs}

    def check_media_kwargs(self, kwargs: Mapping[str, Any]) -> None:
        """Raises TypeError for keyword arguments that nothing reads."""
        if not kwargs:
            return
        nested = {f"{MODALITIES[name].argument}_kwargs": own.processor for name, own in self.modalities.items()}
        flat = {key for name in self.sub_processor_names for key in _valid_kwargs(getattr(self, name))}
        if unknown := [key for key in kwargs if key not in {*nested, *flat, *_OUR_KWARGS, *_STOCK_KWARGS}]:
            arguments = {MODALITIES[name].argument for name in self.modalities}
            hint = did_you_mean(unknown[0], {*TEXT_KWARGS, *nested, *flat, *_OUR_KWARGS, *arguments})
            raise TypeError(
                f"Unknown keyword arguments {unknown}.{hint} The tokenizer's are given as they are, a sub-processor's "
                f"in {', '.join(sorted(nested)) or 'none'}."
            )
        for key, name in nested.items():
            known = _call_kwargs(getattr(self, name)) | _DECIDED
            if unknown := [argument for argument in kwargs.get(key) or () if argument not in known]:
                raise TypeError(f"Unknown keyword arguments {unknown} in {key}.{did_you_mean(unknown[0], known)}")

    def _media_kwargs(self, modality: str, kwargs: dict[str, Any]) -> dict[str, Any]:
        valid = _valid_kwargs(self.sub_processor(modality))
        nested = f"{MODALITIES[modality].argument}_kwargs"
        own = dict(kwargs.get(nested) or {})
        check_given_once(nested, own, kwargs)
        flat = {key: value for key, value in kwargs.items() if key in valid}
        return {key: value for key, value in {**flat, **own}.items() if key not in _DECIDED}

    def _read(self, modality: str, index: int, source: Any, access: dict[str, Any], rate: Any) -> Any:
        spec = MODALITIES[modality]
        bare = isinstance(source, list) or hasattr(source, "shape")  # files and tuples bring their rates
        if rate is not None and spec.medium == "audio" and bare:
            source = (source, rate)
        try:
            return spec.read(source, self.sub_processor(modality), self.modalities[modality].options, **access)
        except (MediaError, OSError) as error:
            raise MediaError(f"{modality} {index}: {error}") from error

    def _extract(self, modality: str, items: list[Any], kwargs: dict[str, Any]) -> dict[str, torch.Tensor]:
        own, spec, processor = self.modalities[modality], MODALITIES[modality], self.sub_processor(modality)
        frames, counts = items, [1] * len(items)
        if own.num_frames is None and own.frame_counts is None:
            cut = [self._cut_item(modality, i, item) for i, item in enumerate(items)]
            frames, counts = [*chain.from_iterable(cut)], [len(one) for one in cut]
        one_by_one = INPUT_SIZES in own.inputs.values()
        alone = [extract(spec, [frame], processor, own.options, **kwargs) for frame in frames] if one_by_one else None
        outputs = joined(alone, own.inputs) if alone else extract(spec, frames, processor, own.options, **kwargs)
        inputs = {name: outputs[key] for name, key in own.inputs.items() if key in outputs}
        if own.main_input not in inputs:
            raise ConfigError(
                f"`modalities.{modality}.inputs` names {own.inputs[own.main_input]!r}; {type(processor).__name__} gives "
                f"{', '.join(outputs)} alone."
            )
        used: dict[str, Any] = {"grid": inputs}
        if own.num_frames is None:
            used["frame_counts"] = outputs
        if own.tells_lengths:
            used["sizes"] = outputs
        for key, there in used.items():
            if (name := getattr(own, key)) is not None and name not in there:
                raise ConfigError(f"`modalities.{modality}.{key}` is {name!r}; there are {', '.join(there)} alone.")
        if own.grid is not None:
            inputs[own.main_input] = in_rows(inputs[own.main_input], inputs[own.grid])
        if own.num_frames is None:
            inputs[f"{modality}_frames"] = outputs[own.frame_counts] if own.frame_counts else torch.tensor(counts)
        if not own.tells_lengths:
            return inputs
        if own.sizes is not None:
            lengths = row_counts(outputs[own.sizes]).flatten() // own.unit
        elif own.feature_length is not None:
            shares = [spec.share(frame, processor, own.options) for frame in frames]
            lengths = torch.tensor([ceil(own.feature_length * share) for share in shares])
        else:
            if alone is None and len(frames) == 1:
                alone = [outputs]
            alone = alone or [extract(spec, [frame], processor, own.options, **kwargs) for frame in frames]
            lengths = torch.tensor(self._feature_lengths(modality, alone))
        inputs[f"{modality}_feature_lengths"] = lengths
        return inputs

    def _cut_item(self, modality: str, index: int, item: Any) -> list[Any]:
        try:
            return MODALITIES[modality].frames(item, self.sub_processor(modality), self.modalities[modality].options)
        except MediaError as error:
            raise MediaError(f"{modality} {index}: {error}") from error

    def _feature_lengths(self, modality: str, frames: list[dict[str, torch.Tensor]]) -> list[int]:
        """Features that the tower gives for each frame that the sub-processor prepared alone, by running it without data."""
        own = self.modalities[modality]
        tower: Any = own.tower  # not None where the number of features depends on it
        main, lengths = own.inputs[own.main_input], []
        for i, frame in enumerate(frames):
            values = frame[main].shape[-1]
            try:
                lengths.append(feature_length(tower, frame, own.channels_first, own.packed))
            except (RuntimeError, ValueError) as error:
                raise MediaError(f"{modality} {i}: the tower cannot read its {values} values: {error}") from error
            if not lengths[-1]:
                raise MediaError(
                    f"{modality} {i}: {values} values are too few for the tower. Give a longer or larger one."
                )
        return lengths

    def num_tokens(self, modality: str, inputs: Mapping[str, torch.Tensor]) -> list[int]:
        """Language-model tokens that each of a modality's media in `inputs` needs."""
        own = self.modalities[modality]
        if own.num_tokens is not None:
            features = f"{modality}_features"
            return [own.num_tokens] * len(inputs[features if features in inputs else own.main_input])
        config: Any = own.aligner
        lengths = item_lengths(self._sizes(modality, inputs), own.num_frames, own.feature_length)
        return [config.count_item_tokens(item) for item in lengths]

    def _get_num_multimodal_tokens(
        self, image_sizes=None, video_sizes=None, audio_lengths=None, **kwargs
    ) -> MultiModalData:
        """For serving: tokens per medium, by the sizes of images and videos and the lengths of audio."""
        data: dict[str, Any] = {}
        for name, sizes in {"image": image_sizes, "video": video_sizes, "audio": audio_lengths}.items():
            own = self.modalities.get(name)
            if sizes is not None and own is not None and own.num_tokens is not None:
                data[f"num_{name}_tokens"] = [own.num_tokens] * len(sizes)
                if name == "image":
                    data["num_image_patches"] = [1] * len(sizes)
        return MultiModalData(**data)


def sub_processor_class(name: str) -> type:
    """The class of that name, which must be one that prepares media. Transformers' own look-up stumbles over those that
    were registered for images or videos, which the Auto classes keep by backend."""
    for cls in registered_processors():
        if getattr(cls, "__name__", None) == name:
            return cls
    found = getattr(transformers, name, None)
    if not (isinstance(found, type) and issubclass(found, (ImageProcessingMixin, FeatureExtractionMixin))):
        raise ValueError(
            f"The processor's config names {name!r}, which is not an image processor or feature extractor."
        )
    return found


def check_given_once(nested: str, own: Mapping[str, Any], flat: Mapping[str, Any]) -> None:
    if twice := sorted(own.keys() & flat.keys()):
        raise ValueError(f"{', '.join(twice)}: given both in {nested} and directly. Give each once.")


def _valid_kwargs(processor: Any) -> set[str]:
    return set(getattr(getattr(processor, "valid_kwargs", None), "__annotations__", ()))


def _call_kwargs(processor: Any) -> set[str]:
    """Keyword arguments of a sub-processor's call, besides the media."""
    if isinstance(processor, PreTrainedTokenizerBase):
        return set(TEXT_KWARGS)
    return _valid_kwargs(processor) or set(list(inspect.signature(type(processor).__call__).parameters)[2:])
