"""The processor: text, chat messages and media of every modality to model inputs.

Text holds one placeholder token per medium. It is tokenised so, and only then is each placeholder's id repeated for
the tokens that the medium needs: media never lengthen what the tokenizer sees, and their spans are known exactly.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoTokenizer,
    BatchFeature,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.processing_utils import MultiModalData, TextKwargs

from ._registry import did_you_mean
from .chat import ChatMixin
from .media import MediaError
from .modalities import MODALITIES, ModalitySpec
from .towers import feature_length


# The tokenizer's keyword arguments; all others are a sub-processor's.
_TEXT_KWARGS = frozenset(TextKwargs.__annotations__)


class _Attributes:
    """`get_attributes` of a processor whose sub-processors depend on the instance."""

    def __get__(self, instance, owner):
        return lambda: ["tokenizer"] if instance is None else ["tokenizer", *instance.sub_processor_names]


class AnyModalityProcessor(ChatMixin, ProcessorMixin):
    """
    Args:
        tokenizer: the language model's, with the placeholder tokens added.
        sub_processors: attribute name -> image processor, feature extractor, ...; `image_processor`,
            `video_processor` and `feature_extractor` where Auto classes look for them, `<modality>_<kind>` for others.
        modalities: modality -> `{"token", "processor", "inputs", "options", "num_tokens" or "tower" and "aligner"}`.
        chat_template: Jinja; see `chat`.
    """

    get_attributes = _Attributes()

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        sub_processors: dict[str, Any] | None = None,
        modalities: dict[str, dict] | None = None,
        chat_template: str | None = None,
    ):
        self.tokenizer = tokenizer
        self.modalities = {name: dict(row) for name, row in sorted((modalities or {}).items())}
        self.sub_processor_names = sorted({row["processor"] for row in self.modalities.values()})
        for name in self.sub_processor_names:
            setattr(self, name, (sub_processors or {})[name])
        self.chat_template = chat_template
        for name, row in self.modalities.items():
            setattr(self, f"{name}_token", row["token"])
            setattr(self, f"{name}_token_id", tokenizer.convert_tokens_to_ids(row["token"]))

    # --- calling -------------------------------------------------------------------------------------------------

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        videos: Any = None,
        audio: Any = None,
        **kwargs,
    ) -> BatchFeature:
        """
        Args:
            text: one prompt or a batch, with a modality's placeholder token wherever a medium belongs.
            images, videos, audio: media, also under any other modality's argument name (`imu=`, `depth=`, ...): one
                medium, a flat list over the whole batch in the order of the placeholders, or a list per prompt.
            kwargs: the tokenizer's keyword arguments; a sub-processor's as `images_kwargs={...}` (or flat, where the
                name is not the tokenizer's); `allow_urls=True` to let media be fetched.

        Returns:
            `input_ids` and `attention_mask` `(batch, sequence)`, padded on the tokenizer's side, and the model inputs
            of each modality that has media, one row per medium in the order of placeholders.

        Raises:
            ValueError: counts of media and placeholders differ, or truncation would cut a medium.
            MediaError: a medium that cannot be read.
        """
        media = self._take_media(kwargs, images=images, videos=videos, audio=audio)
        text_kwargs, media_kwargs = self._split_kwargs(kwargs)
        return_tensors = text_kwargs.pop("return_tensors", None)
        samples = None if text is None else [text] if isinstance(text, str) else list(text)
        if samples is None and not any(items for items, _ in media.values()):
            raise ValueError("Give text, media, or both.")
        if samples is not None and not all(isinstance(sample, str) for sample in samples):
            raise ValueError("`text` must be a string or a list of strings.")
        encoding = {} if samples is None else self._tokenize(samples, text_kwargs)
        if samples is not None:
            self._check_counts(encoding["input_ids"], media)
        inputs, token_counts = self.process_media({name: items for name, (items, _) in media.items()}, **media_kwargs)
        if samples is not None:
            encoding = self._finish_text(encoding, token_counts, text_kwargs)
        return BatchFeature(
            {**encoding, **inputs}, tensor_type=return_tensors, skip_tensor_conversion=["text_replacement_offsets"]
        )

    def _split_kwargs(self, kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        own, common = kwargs.pop("text_kwargs", None) or {}, kwargs.pop("common_kwargs", None) or {}
        _check_given_once("text_kwargs", own, kwargs)
        text_kwargs, media_kwargs = {**self.tokenizer_defaults, **own}, {}
        for name, value in {**common, **kwargs}.items():
            (text_kwargs if name in _TEXT_KWARGS else media_kwargs)[name] = value
        return text_kwargs, media_kwargs

    @property
    def tokenizer_defaults(self) -> dict[str, Any]:
        """Padding, and what else the tokenizer was saved with."""
        saved = {k: v for k, v in self.tokenizer.init_kwargs.items() if k in _TEXT_KWARGS and v is not None}
        return {"padding": True, **{key: getattr(self.tokenizer, key, value) for key, value in saved.items()}}

    def _take_media(self, kwargs: dict[str, Any], **named: Any) -> dict[str, tuple[list, list[int] | None]]:
        """Media out of the arguments: modality -> (items over the batch, items per prompt or None if given flat)."""
        media = {}
        for name in self.modalities:
            spec = MODALITIES[name]
            value = named.pop(spec.argument, None) if spec.argument in named else kwargs.pop(spec.argument, None)
            if value is not None:
                media[name] = _flatten(spec, value)
        lacking = [name for name, value in named.items() if value is not None]
        lacking += [spec.argument for spec in map(MODALITIES.__getitem__, MODALITIES) if spec.argument in kwargs]
        if lacking:
            raise ValueError(
                f"{', '.join(lacking)} given, but this model has no such modality; it has "
                f"{', '.join(self.modalities) or 'none'}. Compose it with one, or leave the media out."
            )
        return media

    # --- text ----------------------------------------------------------------------------------------------------

    def _tokenize(self, samples: list[str], text_kwargs: dict[str, Any]) -> dict[str, list]:
        """Token ids (and offsets, if asked for) with one id per placeholder, neither padded nor truncated."""
        kwargs = {
            name: value
            for name, value in text_kwargs.items()
            if name in ("add_special_tokens", "return_offsets_mapping", "sanitize_control_tokens", "is_split_into_words")
        }
        if kwargs.get("sanitize_control_tokens"):
            kwargs["add_special_tokens"] = False
        encoding = self.tokenizer(
            samples, padding=False, truncation=False, return_attention_mask=False, return_token_type_ids=False, **kwargs
        )
        return dict(encoding)

    def _check_counts(self, input_ids: list[list[int]], media: dict[str, tuple[list, list[int] | None]]) -> None:
        for name, row in self.modalities.items():
            items, given = media.get(name, ([], None))
            expected = [ids.count(getattr(self, f"{name}_token_id")) for ids in input_ids]
            if given is not None and len(given) != len(expected):
                raise ValueError(
                    f"{name}: {len(given)} lists of media for {len(expected)} prompts. Give one list per prompt (empty "
                    "where there are none), or one flat list."
                )
            if given is not None:
                for sample, (want, got) in enumerate(zip(expected, given, strict=True)):
                    if want != got:
                        raise ValueError(_count_error(f"prompt {sample}", name, row["token"], want, got))
            elif sum(expected) != len(items):
                where = f"the {len(expected)} prompts" if len(expected) > 1 else "the prompt"
                raise ValueError(_count_error(where, name, row["token"], sum(expected), len(items)))

    def _finish_text(self, encoding: dict, token_counts: dict[str, list[int]], text_kwargs: dict) -> dict[str, list]:
        """Repeats placeholders, truncates, pads."""
        input_ids, offsets = encoding["input_ids"], encoding.get("offset_mapping")
        repeats = self.placeholder_repeats(input_ids, token_counts)
        limit = text_kwargs.get("max_length") if text_kwargs.get("truncation") else None
        if text_kwargs.get("truncation") and limit is None:
            limit = self.tokenizer.model_max_length
        kept = [self._keep(i, ids, reps, limit) for i, (ids, reps) in enumerate(zip(input_ids, repeats, strict=True))]
        expand = [(np.repeat(np.asarray(ids)[keep], reps[keep])).tolist() for ids, reps, keep in
                  zip(input_ids, repeats, kept, strict=True)]
        pad = {k: text_kwargs[k] for k in ("padding", "pad_to_multiple_of", "padding_side") if k in text_kwargs}
        if pad.get("padding") == "max_length":
            pad["max_length"] = text_kwargs.get("max_length")
        padded = dict(self.tokenizer.pad({"input_ids": expand}, return_attention_mask=True, **pad))
        if text_kwargs.get("return_attention_mask") is False:
            padded.pop("attention_mask")
        if offsets is not None:
            side = pad.get("padding_side") or self.tokenizer.padding_side
            rows = (np.repeat(np.asarray(o).reshape(-1, 2)[k], r[k], axis=0).tolist() for o, r, k in
                    zip(offsets, repeats, kept, strict=True))
            padded["offset_mapping"] = [_pad(row, len(ids), side) for row, ids in zip(rows, padded["input_ids"], strict=True)]
        if text_kwargs.get("return_text_replacement_offsets"):
            padded["text_replacement_offsets"] = [[] for _ in expand]  # offsets are those of the text as it was given
        if text_kwargs.get("return_mm_token_type_ids"):
            padded["mm_token_type_ids"] = self.create_mm_token_type_ids(padded["input_ids"])
        return padded

    def placeholder_repeats(self, input_ids: list[list[int]], token_counts: dict[str, list[int]]) -> list[np.ndarray]:
        """How often each id is repeated, `(tokens,)` int64 per sample: 1, or a placeholder's token count."""
        counts = {getattr(self, f"{name}_token_id"): iter(values) for name, values in token_counts.items()}
        repeats = []
        for ids in input_ids:
            row = np.ones(len(ids), dtype=np.int64)
            for place in np.flatnonzero(np.isin(ids, list(counts))) if counts else ():
                row[place] = next(counts[ids[place]])
            repeats.append(row)
        return repeats

    def _keep(self, sample: int, ids: list[int], repeats: np.ndarray, limit: int | None) -> slice:
        """What truncation to `limit` tokens leaves of a sample; never part of a medium's span."""
        total = int(repeats.sum())
        if limit is None or total <= limit:
            return slice(None)
        left = self.tokenizer.truncation_side == "left"
        ends = np.cumsum(repeats[::-1] if left else repeats)
        count = int(np.searchsorted(ends, limit, side="right"))
        lost = repeats[: len(ids) - count] if left else repeats[count:]
        placeholders = {getattr(self, f"{name}_token_id") for name in self.modalities}
        lost_ids = ids[: len(ids) - count] if left else ids[count:]
        if placeholders & set(lost_ids):
            raise ValueError(
                f"Prompt {sample} has {total} tokens; truncation to max_length={limit} would cut a medium of "
                f"{int(lost.max())} tokens. Raise max_length, shorten the text, or give fewer media."
            )
        return slice(len(ids) - count, None) if left else slice(0, count)

    def create_mm_token_type_ids(self, input_ids: Any) -> list[list[int]]:
        """0 for text; else the modality's place in the registry, from 1: image, video, audio, ..."""
        types = {getattr(self, f"{name}_token_id"): 1 + list(MODALITIES).index(name) for name in self.modalities}
        return [[types.get(int(token), 0) for token in ids] for ids in input_ids]

    # --- media ---------------------------------------------------------------------------------------------------

    def process_media(
        self, media: Mapping[str, list[Any]], **kwargs
    ) -> tuple[dict[str, torch.Tensor], dict[str, list[int]]]:
        """Reads and prepares media.

        Args:
            media: modality -> its media over the whole batch, in the order of placeholders.

        Returns:
            Model inputs, one row per medium; and modality -> tokens that each of its media needs.
        """
        access = {name: kwargs.pop(name) for name in ("allow_urls", "limits") if name in kwargs}
        rates = kwargs.pop("sampling_rate", None) or (kwargs.get("audio_kwargs") or {}).get("sampling_rate")
        inputs, token_counts = {}, {}
        for name, sources in media.items():
            if sources:
                extra = self._media_kwargs(name, kwargs)
                items = [self._read(name, i, source, access, rates) for i, source in enumerate(sources)]
                inputs.update(self._extract(name, items, extra))
                token_counts[name] = self.num_tokens(name, inputs)
        allowed = {f"{MODALITIES[name].argument}_kwargs" for name in self.modalities}
        if unknown := [key for key in kwargs if key not in allowed and not self._knows(key)]:
            raise TypeError(
                f"Unknown keyword arguments {unknown}.{did_you_mean(unknown[0], _TEXT_KWARGS | allowed)} The tokenizer's "
                f"are given as they are, a sub-processor's in {', '.join(sorted(allowed)) or 'none'}."
            )
        return inputs, token_counts

    def _knows(self, key: str) -> bool:
        return any(key in _valid_kwargs(getattr(self, name)) for name in self.sub_processor_names) or key in (
            "images_kwargs", "videos_kwargs", "audio_kwargs", "return_metadata", "device"
        )

    def _media_kwargs(self, modality: str, kwargs: dict[str, Any]) -> dict[str, Any]:
        valid = _valid_kwargs(getattr(self, self.modalities[modality]["processor"]))
        nested = f"{MODALITIES[modality].argument}_kwargs"
        own = dict(kwargs.get(nested) or {})
        _check_given_once(nested, own, kwargs)
        for name in ("return_tensors", "sampling_rate", "do_sample_frames"):
            own.pop(name, None)  # ours to decide
        return {**{key: value for key, value in kwargs.items() if key in valid and key != "do_sample_frames"}, **own}

    def _read(self, modality: str, index: int, source: Any, access: dict[str, Any], rate: Any) -> Any:
        row, spec = self.modalities[modality], MODALITIES[modality]
        processor = getattr(self, row["processor"])
        if rate is not None and spec.medium == "audio" and rate != processor.sampling_rate and not isinstance(source, tuple):
            source = (source, rate)
        try:
            return spec.read(source, processor, row["options"], **access)
        except (MediaError, OSError) as error:
            raise MediaError(f"{modality} {index}: {error}") from error

    def _extract(self, modality: str, items: list[Any], kwargs: dict[str, Any]) -> dict[str, torch.Tensor]:
        row = self.modalities[modality]
        outputs = MODALITIES[modality].extract(items, getattr(self, row["processor"]), row["options"], **kwargs)
        inputs = {name: outputs[key] for name, key in row["inputs"].items() if key in outputs}
        if row.get("num_tokens") is None:
            lengths = self._feature_lengths(modality, items, kwargs, next(iter(inputs.values())))
            inputs[f"{modality}_feature_lengths"] = torch.tensor(lengths)
        return inputs

    def _feature_lengths(self, modality: str, items: list[Any], kwargs: dict[str, Any], batch: torch.Tensor) -> list[int]:
        """Features per frame that the tower gives for each item alone, by running it without data."""
        row = self.modalities[modality]
        spec, processor = MODALITIES[modality], getattr(self, row["processor"])
        main = next(iter(row["inputs"].values()))
        config = _config(row["tower"])
        alone = (spec.extract([item], processor, row["options"], **kwargs)[main] for item in items) if len(items) > 1 else [batch]
        return [feature_length(config, tuple(inputs.shape), inputs.dtype) for inputs in alone]

    def num_tokens(self, modality: str, inputs: Mapping[str, torch.Tensor]) -> list[int]:
        """Language-model tokens that each of a modality's media in `inputs` needs."""
        row = self.modalities[modality]
        main = inputs[next(iter(row["inputs"]))]
        if row.get("num_tokens") is not None:
            return [row["num_tokens"]] * len(main)
        config = _config(row["aligner"])
        return [config.count_tokens(config.num_frames, n) for n in inputs[f"{modality}_feature_lengths"].tolist()]

    def _get_num_multimodal_tokens(
        self, image_sizes=None, video_sizes=None, audio_lengths=None, **kwargs
    ) -> MultiModalData:
        """What serving asks for: tokens per medium, by the sizes of images and videos and lengths of audio."""
        data: dict[str, Any] = {}
        for name, sizes in {"image": image_sizes, "video": video_sizes, "audio": audio_lengths}.items():
            if sizes is not None and (tokens := self.modalities.get(name, {}).get("num_tokens")) is not None:
                data[f"num_{name}_tokens"] = [tokens] * len(sizes)
                if name == "image":
                    data["num_image_patches"] = [1] * len(sizes)
        return MultiModalData(**data)

    # --- names ---------------------------------------------------------------------------------------------------

    @property
    def model_input_names(self) -> list[str]:
        names = list(chain.from_iterable(row["inputs"] for row in self.modalities.values()))
        lengths = [f"{name}_feature_lengths" for name, row in self.modalities.items() if row.get("num_tokens") is None]
        return ["input_ids", "attention_mask", *names, *lengths]

    # --- saving and loading --------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        parts = {name: getattr(self, name) for name in self.sub_processor_names}
        return {
            "processor_class": type(self).__name__,
            "modalities": self.modalities,
            **{name: part.to_dict() for name, part in parts.items() if not isinstance(part, PreTrainedTokenizerBase)},
        }

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        processor_dict = processor_dict or {}
        names = sorted({row["processor"] for row in processor_dict.get("modalities", {}).values()})
        parts = {name: kwargs.pop(name) for name in names if name in kwargs}
        tokenizer = AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)
        for name in names:
            if name in parts:
                continue
            if name.endswith("tokenizer"):
                folder = os.path.join(kwargs.get("subfolder", ""), name)
                parts[name] = AutoTokenizer.from_pretrained(
                    pretrained_model_name_or_path, **{**kwargs, "subfolder": folder}
                )
                continue
            settings = {key: kwargs.get(key, value) for key, value in processor_dict[name].items()}
            kind = next(key for key in ("image_processor_type", "video_processor_type", "feature_extractor_type") if key in settings)
            parts[name] = cls.get_possibly_dynamic_module(settings[kind])(**settings)
        return [tokenizer, parts]

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoProcessor") -> None:
        """Nothing: checkpoints name the installed package, and copying this file into them would break them."""


def _config(serialized: dict[str, Any]) -> PreTrainedConfig:
    return CONFIG_MAPPING[serialized["model_type"]].from_dict(dict(serialized))


def _check_given_once(nested: str, own: Mapping[str, Any], flat: Mapping[str, Any]) -> None:
    if twice := sorted(own.keys() & flat.keys()):
        raise ValueError(f"{', '.join(twice)}: given both in {nested} and beside it; give each once.")


def _valid_kwargs(processor: Any) -> set[str]:
    return set(getattr(getattr(processor, "valid_kwargs", None), "__annotations__", ()))


def _flatten(spec: ModalitySpec, value: Any) -> tuple[list[Any], list[int] | None]:
    """Media as a flat list, and how many each prompt has if they were given per prompt."""
    if spec.is_item(value):
        return [value], None
    if len(value) and all(not spec.is_item(entry) or entry is None for entry in value):
        per_prompt = [[] if entry is None else list(entry) for entry in value]
        return list(chain.from_iterable(per_prompt)), [len(entry) for entry in per_prompt]
    return list(value), None


def _count_error(where: str, modality: str, token: str, expected: int, given: int) -> str:
    cause = (
        "A placeholder is missing from the text: media are placed by their token, which the chat template writes for "
        f'content parts of type "{modality}"'
        if given > expected
        else f"Was {token} typed into the text? Give one medium for each, in their order"
    )
    return f"{where} has {expected} {token} placeholders, but {given} media of {modality!r} were given. {cause}."


def _pad(row: list, length: int, side: str) -> list:
    padding = [[0, 0]] * (length - len(row))
    return padding + row if side == "left" else row + padding
