"""The processor: turns text, chat messages and media of every modality into model inputs."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from ..modalities import MODALITIES, ModalitySpec
from ..model.remote_code import PROCESSOR_AUTO_MAP, RemoteCodeMixin
from ..utils.checked import check_fields, read_from
from ..utils.registry import did_you_mean
from ..utils.upstream import template_variables
from .chat import ChatWriter, media_of, read_chats
from .layout import lay_out
from .loading import load_parts, modality_inputs
from .media_inputs import TEXT_KWARGS, MediaMixin, ModalityInputs, check_given_once
from .tokenization import Prompt, PromptTokenizer, Text


# The tokenizer's keyword arguments that are invalid for prompts with media, or that nothing reads.
_UNSUPPORTED = frozenset(
    ("text_pair", "text_target", "text_pair_target", "stride", "is_split_into_words", "return_token_type_ids")
    + ("return_overflowing_tokens", "return_special_tokens_mask", "return_length", "sanitize_control_tokens")
)


class _Attributes:
    """`get_attributes` for a processor whose sub-processors depend on the instance."""

    def __get__(self, instance, owner):
        return lambda: ["tokenizer"] if instance is None else ["tokenizer", *instance.sub_processor_names]


def until_stop(text: str, stops: Sequence[str]) -> str:
    """An answer up to the first of the stop strings."""
    ends = [text.find(stop) for stop in stops if stop in text]
    return text[: min(ends)].rstrip() if ends else text


class AnyModalityProcessor(RemoteCodeMixin, MediaMixin, ProcessorMixin):
    """
    Args:
        tokenizer: the language model's, with the placeholder tokens added.
        sub_processors: attribute name -> image processor, feature extractor, ...; `image_processor`,
            `video_processor` and `feature_extractor` as the Auto classes expect, `<modality>_<kind>` for others.
        modalities: modality -> its `ModalityInputs` (or the dict of it); kept in alphabetical order.
        chat_template: Jinja; see `chat`.
        text_settings: `{"piecewise": True}`: text is split at special tokens and at `tokenization.PIECE_END`, and each
            piece is tokenised alone after one begin token; `{"stop": ["###"]}`: answers are decoded up to the first of
            these.
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
        check_fields("config", {"text_settings": text_settings}, {"text_settings": dict[str, Any] | None}, {})
        self.text_settings = dict(text_settings or {})
        if unknown := sorted(set(self.text_settings) - {"piecewise", "stop"}):
            raise ValueError(f"Unknown settings {unknown} in `text_settings`; known: piecewise, stop.")
        check_fields("text_settings", self.text_settings, {"piecewise": bool, "stop": list[str]}, {})
        self.modalities = {
            name: own if isinstance(own, ModalityInputs) else modality_inputs(name, own)
            for name, own in sorted((modalities or {}).items())
        }
        self.sub_processor_names = sorted({own.processor for own in self.modalities.values()})
        for name in self.sub_processor_names:
            setattr(self, name, (sub_processors or {})[name])
        self.chat_template = chat_template
        tokens = {name: own.token for name, own in self.modalities.items()}
        self.prompt_tokenizer = PromptTokenizer(tokenizer, tokens, bool(self.text_settings.get("piecewise")))
        for name in self.modalities:
            MODALITIES[name]  # raises if it is not registered
            # Transformers looks for placeholders under these names.
            setattr(self, f"{name}_token", tokens[name])
            setattr(self, f"{name}_token_id", self.prompt_tokenizer.placeholders[name])

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
                medium, a flat list over the full batch in the order of the placeholders, or a list per prompt.
            kwargs: the tokenizer's keyword arguments; a sub-processor's as `images_kwargs={...}` (or flat, if the
                tokenizer does not have the name); `allow_urls=True` to fetch media from URLs.

        Returns:
            `input_ids` and `attention_mask` `(batch, sequence)`, padded on the tokenizer's side if `return_tensors` asks for
            tensors or `padding` for padding, and the model inputs of each modality that has media, one row per medium in
            the order of placeholders.

        Raises:
            ValueError: counts of media and placeholders differ, or truncation would cut a medium.
            TypeError: an unknown keyword argument.
            MediaError: a medium cannot be read.
        """
        texts = [text] if isinstance(text, str) else text
        if texts is not None:
            if not (isinstance(texts, (list, tuple)) and all(isinstance(text, str) for text in texts)):
                raise ValueError("`text` must be a string or a list of strings.")
            texts = [Text(text) for text in texts]
        return self._inputs(texts, {"images": images, "videos": videos, "audio": audio, **kwargs})

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        tools: list | None = None,
        documents: list[dict] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_tensors: str | None = None,
        return_dict: bool = False,
        load_audio_from_video: bool = False,
        processor_kwargs: dict[str, Any] | None = None,
        sanitize_control_tokens: bool | None = None,
        **variables,
    ) -> Any:
        """As Transformers' own, for parts of every modality: `{"type": "imu", "path": "walk.csv"}` (or `"url"`,
        `"base64"`, or the medium itself under the modality's name).

        Control tokens and placeholders that a user typed are text, also if they are split over parts, names or arguments;
        `sanitize_control_tokens=False` reads them as control tokens. Without `tokenize` the result is the template's
        text, which does not show who wrote what. The sound of a video is a separate medium: `load_audio_from_video`,
        which Transformers' server sets, is ignored.

        Returns:
            The text; with `tokenize`, its ids; with `return_dict`, model inputs as from a call and, if requested,
            `assistant_masks` `(batch, sequence)`: 1 for the assistant's text with its end token.

        Raises:
            ValueError: not a chat, an invalid content part, or options that exclude each other.
            TypeError: an argument that neither the template nor the processor reads.
        """
        mask = return_assistant_tokens_mask
        if continue_final_message and (add_generation_prompt or mask):
            raise ValueError("`continue_final_message` excludes a generation prompt and an assistant's mask.")
        if sanitize_control_tokens and not tokenize:
            raise ValueError("`sanitize_control_tokens` needs `tokenize`: a text does not show which part was typed.")
        source = self.resolve_chat_template(chat_template)
        # Arguments that the template does not read go to the processor, as in earlier Transformers.
        others = {key: variables.pop(key) for key in variables.keys() - template_variables(source)}
        chats, several = read_chats(conversation)
        media = [self.media_of(chat) for chat in chats] if tokenize else []
        given = (tools, documents, variables, tokenize and sanitize_control_tokens is not False)
        options = {"add_generation_prompt": add_generation_prompt, "continue_final_message": continue_final_message}
        writers = [ChatWriter(source, self.prompt_tokenizer, chat, *given, **options) for chat in chats]
        texts = [writer.write(said=mask) for writer in writers]
        if not tokenize:
            return [text.text for text in texts] if several else texts[0].text
        named = {MODALITIES[name].argument: [found.get(name, []) for found in media] for name in self.modalities}
        named = {argument: found for argument, found in named.items() if any(found)}
        settings = {"return_tensors": return_tensors, **named, **others, **(processor_kwargs or {})}
        inputs = self._inputs(texts, settings, mask)
        return inputs if return_dict else inputs["input_ids"]

    def resolve_chat_template(self, name: str | None = None) -> str:
        """The chat template of that name; a template itself stays unchanged; None gives the processor's own."""
        given = self.chat_template
        own: dict[str, Any] = given if isinstance(given, dict) else {"default": given}
        if name is not None:
            return own.get(name, name)
        if own.get("default") is None:
            names = ", ".join(key for key in own if own[key])
            raise ValueError(
                "This processor has no default chat template: give one as chat_template=..."
                + (f", or the name of one: {names}." if names else ".")
            )
        return own["default"]

    def write_chat(
        self,
        messages: Any,
        tools: list | None = None,
        add_generation_prompt: bool = False,
        said: bool = False,
        **template_kwargs,
    ) -> Text:
        """A chat as the template writes it, with one placeholder per medium; its media are not read. Typed control tokens
        are text.

        Args:
            said: whether to find the assistant's text with the end token: by the template's generation tags if it has
                them, else by the place of the assistant's words.
            template_kwargs: further variables of the template.

        Raises:
            ValueError: the assistant's words cannot be found.
        """
        (chat,), _ = read_chats(messages)
        options: dict[str, Any] = {"variables": template_kwargs, "add_generation_prompt": add_generation_prompt}
        return ChatWriter(self.resolve_chat_template(), self.prompt_tokenizer, chat, tools, **options).write(said)

    def tokenize_chat(self, messages: Any, tools: list | None = None, **options) -> Prompt:
        """The tokens of a chat, from the arguments of `write_chat`; one token per placeholder."""
        return self.prompt_tokenizer.encode([self.write_chat(messages, tools, **options)])[0]

    def encode_chat(self, messages: Any, tools: list | None = None, **template_kwargs) -> tuple[list[int], list[bool]]:
        """The ids of `tokenize_chat` for a complete chat, and which of them are the assistant's."""
        prompt = self.tokenize_chat(messages, tools, said=True, **template_kwargs)
        return prompt.ids.tolist(), prompt.said.tolist()

    def encode_prompt(self, messages: Any, tools: list | None = None, **template_kwargs) -> list[int]:
        """The ids of `tokenize_chat` for a chat to answer."""
        return self.tokenize_chat(messages, tools, add_generation_prompt=True, **template_kwargs).ids.tolist()

    def media_of(self, messages: list[dict]) -> dict[str, list[Any]]:
        """Modality -> the media of one chat, in order. Raises ValueError for an invalid content part."""
        return media_of(messages, self.modalities)

    # --- what calls and chats share ----------------------------------------------------------------------------------

    def _inputs(self, texts: list[Text] | None, kwargs: dict[str, Any], mask: bool = False) -> BatchFeature:
        media = self._take_media(kwargs)
        text_kwargs, media_kwargs = self._split_kwargs(kwargs)
        if not texts and not any(items for items, _ in media.values()):
            raise ValueError("Give text, media, or both.")
        prompts = self.prompt_tokenizer.encode(texts or (), text_kwargs.get("add_special_tokens") is not False)
        if texts is not None:
            self._check_counts(prompts, media)
        inputs, token_counts = self.process_media({name: items for name, (items, _) in media.items()}, **media_kwargs)
        encoding = {}
        if texts is not None:
            self.prompt_tokenizer.place_media(prompts, token_counts)
            encoding = lay_out(prompts, self.tokenizer, text_kwargs, mask)
            if text_kwargs.get("return_mm_token_type_ids"):
                encoding["mm_token_type_ids"] = self.create_mm_token_type_ids(encoding["input_ids"])
        tensor_type, skipped = text_kwargs.get("return_tensors"), ["text_replacement_offsets"]
        return BatchFeature({**encoding, **inputs}, tensor_type=tensor_type, skip_tensor_conversion=skipped)

    def _split_kwargs(self, kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        own, common = kwargs.pop("text_kwargs", None) or {}, kwargs.pop("common_kwargs", None) or {}
        check_given_once("text_kwargs", own, kwargs)
        if unknown := sorted(set(own) - TEXT_KWARGS):
            hint = did_you_mean(unknown[0], TEXT_KWARGS)
            raise TypeError(f"Unknown keyword arguments {unknown} in text_kwargs.{hint}")
        text_kwargs, media_kwargs = {**self.tokenizer_defaults, **own}, {}
        for name, value in {**common, **kwargs}.items():
            (text_kwargs if name in TEXT_KWARGS else media_kwargs)[name] = value
        text_kwargs.setdefault("padding", text_kwargs.get("return_tensors") is not None)
        if unsupported := sorted(name for name in _UNSUPPORTED if text_kwargs.get(name)):
            raise TypeError(
                f"{', '.join(unsupported)}: not supported, because a prompt's tokens change with its media."
            )
        self.check_media_kwargs(media_kwargs)
        return text_kwargs, media_kwargs

    @property
    def tokenizer_defaults(self) -> dict[str, Any]:
        """The call arguments that the tokenizer was saved with."""
        saved = {k: v for k, v in self.tokenizer.init_kwargs.items() if k in TEXT_KWARGS and v is not None}
        return {key: getattr(self.tokenizer, key, value) for key, value in saved.items()}

    def _take_media(self, kwargs: dict[str, Any]) -> dict[str, tuple[list, list[int] | None]]:
        """Takes media from the arguments: modality -> (items over the batch, items per prompt or None if given flat)."""
        taken = {name: kwargs.pop(MODALITIES[name].argument, None) for name in MODALITIES}
        if lacking := [name for name, value in taken.items() if value is not None and name not in self.modalities]:
            raise ValueError(
                f"{', '.join(MODALITIES[name].argument for name in lacking)} given, but this model has only "
                f"{', '.join(self.modalities) or 'text'}. Compose it with that modality, or leave the media out."
            )
        return {name: _flatten(MODALITIES[name], taken[name]) for name in self.modalities if taken[name] is not None}

    def _check_counts(self, prompts: list[Prompt], media: dict[str, tuple[list, list[int] | None]]) -> None:
        for name in self.modalities:
            items, given = media.get(name, ([], None))
            if given is None and (items or len(prompts) == 1):
                self.prompt_tokenizer.check_count(prompts, name, len(items))
                continue
            given = [0] * len(prompts) if given is None else given
            if len(given) != len(prompts):
                raise ValueError(
                    f"{name}: {len(given)} lists of media for {len(prompts)} prompts. Give one list per prompt "
                    "(empty where there are none), or one flat list."
                )
            for i, count in enumerate(given):
                self.prompt_tokenizer.check_count(prompts[i : i + 1], name, count, f"prompt {i}")

    def create_mm_token_type_ids(self, input_ids: Any) -> list[list[int]]:
        """0 for text; else the modality's place in the registry, from 1: image, video, audio, ..."""
        rows = [np.asarray(ids) for ids in input_ids]
        types = [np.zeros_like(row) for row in rows]
        for name, token_id in self.prompt_tokenizer.placeholders.items():
            for row, own in zip(rows, types, strict=True):
                own[row == token_id] = 1 + [*MODALITIES].index(name)
        return [own.tolist() for own in types]

    # --- answers -------------------------------------------------------------------------------------------------

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, *args, **kwargs) -> Any:
        """As the tokenizer's; without special tokens, it also cuts the answer at a stop (`text_settings["stop"]`)."""
        return self._cut(super().decode(token_ids, skip_special_tokens, *args, **kwargs), skip_special_tokens)

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False, *args, **kwargs) -> list[str]:
        return self._cut(super().batch_decode(sequences, skip_special_tokens, *args, **kwargs), skip_special_tokens)

    def _cut(self, text: Any, skip_special_tokens: bool) -> Any:
        stops = self.text_settings.get("stop", ()) if skip_special_tokens else ()
        return [until_stop(one, stops) for one in text] if isinstance(text, list) else until_stop(text, stops)

    # --- names ---------------------------------------------------------------------------------------------------

    @property
    def model_input_names(self) -> list[str]:
        names = list(chain.from_iterable(own.inputs for own in self.modalities.values()))
        sizes = [f"{name}_frames" for name, own in self.modalities.items() if own.num_frames is None]
        sizes += [f"{name}_feature_lengths" for name, own in self.modalities.items() if own.tells_lengths]
        return ["input_ids", "attention_mask", *names, *sizes]

    @property
    def pad_token_id(self) -> int | None:
        """The tokenizer's; trainers pad generated ids with it."""
        return self.tokenizer.pad_token_id

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
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As usual. Raises ConfigError, which names the folder and the key, for invalid values."""
        with read_from(f"processor_config.json of {pretrained_model_name_or_path}"):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path, processor_dict=None, **kwargs):
        processor_dict = processor_dict or {}
        if "modalities" not in processor_dict:
            raise OSError(
                f"{pretrained_model_name_or_path} has a model, but not its processor. Save both together: "
                "model.save_pretrained(folder, processor=processor)."
            )
        return load_parts(pretrained_model_name_or_path, processor_dict, **kwargs)


def _flatten(spec: ModalitySpec, value: Any) -> tuple[list[Any], list[int] | None]:
    """Media as a flat list, and the number per prompt if they were given per prompt."""
    if spec.is_item(value):
        return [value], None
    if len(value) and all(not spec.is_item(entry) or entry is None for entry in value):
        per_prompt = [[] if entry is None else list(entry) for entry in value]
        return list(chain.from_iterable(per_prompt)), [len(entry) for entry in per_prompt]
    return list(value), None
