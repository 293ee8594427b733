"""The processor: text, chat messages and media of every modality to model inputs.

Text holds one placeholder token per medium. It is tokenised so, and only then is each placeholder's id repeated for
the tokens that the medium needs: media never lengthen what the tokenizer sees, and their spans are known exactly.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from transformers import AutoTokenizer, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from ..modalities import MODALITIES, ModalitySpec
from ..model.remote_code import PROCESSOR_AUTO_MAP, RemoteCodeMixin
from ..utils.registry import did_you_mean
from .chat import ChatMixin
from .media_inputs import TEXT_KWARGS, MediaMixin, ModalityInputs, check_given_once, sub_processor_class


# Of the tokenizer's keyword arguments, those that make no sense for prompts with media, or that nobody reads.
_UNSUPPORTED = frozenset(
    ("text_pair", "text_target", "text_pair_target", "stride", "is_split_into_words", "return_token_type_ids")
    + ("return_overflowing_tokens", "return_special_tokens_mask", "return_length")
)


class _Attributes:
    """`get_attributes` of a processor whose sub-processors depend on the instance."""

    def __get__(self, instance, owner):
        return lambda: ["tokenizer"] if instance is None else ["tokenizer", *instance.sub_processor_names]


def until_stop(text: str, stops: Sequence[str]) -> str:
    """An answer without the first of the strings that end it, and what follows."""
    ends = [text.find(stop) for stop in stops if stop in text]
    return text[: min(ends)].rstrip() if ends else text


class AnyModalityProcessor(RemoteCodeMixin, ChatMixin, MediaMixin, ProcessorMixin):
    """
    Args:
        tokenizer: the language model's, with the placeholder tokens added.
        sub_processors: attribute name -> image processor, feature extractor, ...; `image_processor`,
            `video_processor` and `feature_extractor` where Auto classes look for them, `<modality>_<kind>` for others.
        modalities: modality -> its `ModalityInputs` (or the dict of it); kept in alphabetical order.
        chat_template: Jinja; see `chat`.
        text_settings: `{"piecewise": True}`: text is split at special tokens and at `chat.PIECE_END`, and each piece is
            tokenised by itself behind one begin token; `{"stop": ["###"]}`: answers are decoded up to the first of these.
    """

    get_attributes = _Attributes()

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        sub_processors: dict[str, Any] | None = None,
        modalities: Mapping[str, ModalityInputs | dict[str, Any]] | None = None,
        chat_template: str | None = None,
        text_settings: dict[str, Any] | None = None,
    ):
        self.tokenizer = tokenizer
        self.text_settings = dict(text_settings or {})
        if unknown := sorted(set(self.text_settings) - {"piecewise", "stop"}):
            raise ValueError(f"Unknown settings {unknown} in `text_settings`; known: piecewise, stop.")
        self.modalities = {
            name: own if isinstance(own, ModalityInputs) else ModalityInputs.from_dict(name, own)
            for name, own in sorted((modalities or {}).items())
        }
        self.sub_processor_names = sorted({own.processor for own in self.modalities.values()})
        for name in self.sub_processor_names:
            setattr(self, name, (sub_processors or {})[name])
        self.chat_template = chat_template
        for name, own in self.modalities.items():
            MODALITIES[name]  # raises for one that is not registered
            setattr(self, f"{name}_token", own.token)
            setattr(self, f"{name}_token_id", _token_id(tokenizer, name, own.token))

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
            TypeError: an unknown keyword argument.
            MediaError: a medium that cannot be read.
        """
        media = self._take_media(kwargs, images=images, videos=videos, audio=audio)
        text_kwargs, media_kwargs = self._split_kwargs(kwargs)
        return_tensors = text_kwargs.pop("return_tensors", None)
        samples = [text] if isinstance(text, str) else text
        if not samples and not any(items for items, _ in media.values()):
            raise ValueError("Give text, media, or both.")
        if samples is not None and not (
            isinstance(samples, (list, tuple)) and all(isinstance(s, str) for s in samples)
        ):
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
        check_given_once("text_kwargs", own, kwargs)
        if unknown := sorted(set(own) - TEXT_KWARGS):
            hint = did_you_mean(unknown[0], TEXT_KWARGS)
            raise TypeError(f"Unknown keyword arguments {unknown} in text_kwargs.{hint}")
        text_kwargs, media_kwargs = {**self.tokenizer_defaults, **own}, {}
        for name, value in {**common, **kwargs}.items():
            (text_kwargs if name in TEXT_KWARGS else media_kwargs)[name] = value
        if unsupported := sorted(name for name in _UNSUPPORTED if text_kwargs.get(name)):
            raise TypeError(f"{', '.join(unsupported)}: not supported, as a prompt's tokens change with its media.")
        self.check_media_kwargs(media_kwargs)
        return text_kwargs, media_kwargs

    @property
    def tokenizer_defaults(self) -> dict[str, Any]:
        """Padding, and what else the tokenizer was saved with."""
        saved = {k: v for k, v in self.tokenizer.init_kwargs.items() if k in TEXT_KWARGS and v is not None}
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
        if self.text_settings.get("piecewise") or text_kwargs.get("sanitize_control_tokens"):
            return self._tokenize_pieces(samples, **text_kwargs)
        names = ("add_special_tokens", "return_offsets_mapping")
        kwargs = {name: text_kwargs[name] for name in names if text_kwargs.get(name) is not None}
        silent = dict.fromkeys(("padding", "truncation", "return_attention_mask", "return_token_type_ids"), False)
        return dict(self.tokenizer(samples, **silent, **kwargs))

    def _tokenize_pieces(
        self,
        samples: list[str],
        add_special_tokens: bool = True,
        sanitize_control_tokens: bool = False,
        return_offsets_mapping: bool = False,
        **others,
    ) -> dict[str, list]:
        encoding: dict[str, list] = {"input_ids": [], "offset_mapping": []}
        for sample in samples:
            ids, places = self._encode(sample, [], sanitize_control_tokens)
            first, last = self._added_tokens if add_special_tokens and not self._begins(sample) else ([], [])
            encoding["input_ids"].append([*first, *ids, *last])
            added = [[[0, 0]] * len(tokens) for tokens in (first, last)]
            encoding["offset_mapping"].append([*added[0], *places.tolist(), *added[1]])
        if not return_offsets_mapping:
            del encoding["offset_mapping"]
        return encoding

    def _check_counts(self, input_ids: list[list[int]], media: dict[str, tuple[list, list[int] | None]]) -> None:
        for name, own in self.modalities.items():
            items, given = media.get(name, ([], None))
            expected = [ids.count(getattr(self, f"{name}_token_id")) for ids in input_ids]
            if given is None and not items and len(expected) > 1:
                given = [0] * len(expected)
            if given is not None and len(given) != len(expected):
                raise ValueError(
                    f"{name}: {len(given)} lists of media for {len(expected)} prompts. Give one list per prompt "
                    "(empty where there are none), or one flat list."
                )
            if given is not None:
                for sample, (want, got) in enumerate(zip(expected, given, strict=True)):
                    if want != got:
                        raise ValueError(_count_error(f"prompt {sample}", name, own.token, want, got))
            elif sum(expected) != len(items):
                where = f"the batch of {len(expected)} prompts" if len(expected) > 1 else "the prompt"
                raise ValueError(_count_error(where, name, own.token, sum(expected), len(items)))

    def _finish_text(self, encoding: dict, token_counts: dict[str, list[int]], text_kwargs: dict) -> dict[str, list]:
        """Repeats placeholders, truncates, pads."""
        input_ids, offsets = encoding["input_ids"], encoding.get("offset_mapping")
        repeats = self.placeholder_repeats(input_ids, token_counts)
        limit = None
        if text_kwargs.get("truncation") not in (None, False, "do_not_truncate"):
            limit = text_kwargs.get("max_length") or self.tokenizer.model_max_length
        kept = [self._keep(i, ids, reps, limit) for i, (ids, reps) in enumerate(zip(input_ids, repeats, strict=True))]
        expand = [
            (np.repeat(np.asarray(ids)[keep], reps[keep])).tolist()
            for ids, reps, keep in zip(input_ids, repeats, kept, strict=True)
        ]
        pad = {k: text_kwargs[k] for k in ("padding", "pad_to_multiple_of", "padding_side") if k in text_kwargs}
        if pad.get("padding") == "max_length":
            pad["max_length"] = text_kwargs.get("max_length")
        padded = dict(self.tokenizer.pad({"input_ids": expand}, return_attention_mask=True, **pad))
        if text_kwargs.get("return_attention_mask") is False:
            padded.pop("attention_mask")
        if offsets is not None:
            side = pad.get("padding_side") or self.tokenizer.padding_side
            rows = (
                np.repeat(np.asarray(o).reshape(-1, 2)[k], r[k], axis=0).tolist()
                for o, r, k in zip(offsets, repeats, kept, strict=True)
            )
            padded["offset_mapping"] = [
                _pad(row, len(ids), side) for row, ids in zip(rows, padded["input_ids"], strict=True)
            ]
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

    # --- answers -------------------------------------------------------------------------------------------------

    def decode(self, *args, **kwargs) -> Any:
        """As the tokenizer's; without special tokens, also without what ends an answer (`text_settings["stop"]`)."""
        return self._cut(super().decode(*args, **kwargs), **kwargs)

    def batch_decode(self, *args, **kwargs) -> list[str]:
        return self._cut(super().batch_decode(*args, **kwargs), **kwargs)

    def _cut(self, text: Any, skip_special_tokens: bool = False, **kwargs) -> Any:
        if not skip_special_tokens:
            return text
        stops = self.text_settings.get("stop", ())
        return [until_stop(one, stops) for one in text] if isinstance(text, list) else until_stop(text, stops)

    # --- names ---------------------------------------------------------------------------------------------------

    @property
    def model_input_names(self) -> list[str]:
        names = list(chain.from_iterable(own.inputs for own in self.modalities.values()))
        lengths = [f"{name}_feature_lengths" for name, own in self.modalities.items() if own.num_tokens is None]
        return ["input_ids", "attention_mask", *names, *lengths]

    # --- saving and loading --------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        parts = {name: getattr(self, name) for name in self.sub_processor_names}
        return {
            "processor_class": type(self).__name__,
            "auto_map": dict(PROCESSOR_AUTO_MAP),
            "modalities": {name: own.to_dict() for name, own in self.modalities.items()},
            "text_settings": self.text_settings,
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
            if name not in processor_dict:
                raise ValueError(f"The processor's config has no {name!r}, which its table of modalities names.")
            settings = {key: kwargs.get(key, value) for key, value in processor_dict[name].items()}
            kinds = (f"{kind}_type" for kind in ("image_processor", "video_processor", "feature_extractor"))
            kind = next(kind for kind in kinds if kind in settings)
            parts[name] = sub_processor_class(settings[kind])(**settings)
        return [tokenizer, parts]


def _token_id(tokenizer: PreTrainedTokenizerBase, modality: str, token: str) -> int:
    token_id = tokenizer.convert_tokens_to_ids(token)
    if token_id is None or (token_id == tokenizer.unk_token_id and token != tokenizer.unk_token):
        raise ValueError(f"The placeholder {token!r} of {modality!r} is not in the tokenizer's vocabulary.")
    return token_id


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
