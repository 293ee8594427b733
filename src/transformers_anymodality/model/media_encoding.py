"""Turns media into tokens in their places: each modality of a batch runs once through its tower and its aligner, and its
tokens replace the placeholders among the embeddings.

Dimensions: `items` media of one modality in the batch, `frames` per item, `length` features per frame, `dim` the
tower's width, `tokens` per item, `hidden` the language model's width; `batch` rows of `sequence` places. Where items
differ in frames or features, see `frames`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import torch_compilable_check

from ..towers import compute_dtype, is_trained, run_tower
from ..utils.checked import ConfigError
from ..utils.upstream import CACHE_NAMES
from .adapters import encode_by_adapter, trained_copies
from .by_size import INPUT_SIZES, encode_by_size
from .configuration import SIZES, AnyModalityConfig, ModalityConfig, item_lengths
from .dummy_items import dummy_inputs, is_shared_out, on_dummy_item
from .frames import Frames, side_by_side, tokens_of_items
from .misfits import contradiction, wrong_count
from .outputs import EncodedMedia


# Arguments of one call of `get_modality_features`.
MediaInputs = dict[str, torch.Tensor]


def split_media(
    owners: Mapping[str, tuple[str, str]], kwargs: Mapping[str, Any]
) -> tuple[dict[str, MediaInputs], dict[str, Any]]:
    """Splits the keyword arguments of a forward.

    Args:
        owners: the config's `media_arguments`.

    Returns:
        modality -> its media, as arguments of `get_modality_features`; and the language model's arguments.
    """
    media, rest = {}, {}
    for name, value in kwargs.items():
        if name not in owners:
            rest[name] = value
        elif value is not None:
            modality, argument = owners[name]
            media.setdefault(modality, {})[argument] = value
    # Processors may give the first, but ids identify placeholders; collators give the second, which is for a head.
    rest.pop("mm_token_type_ids", None)
    rest.pop("skip_logits", None)
    return {name: inputs for name, inputs in media.items() if not set(inputs) <= {*SIZES}}, rest


class MediaEncodingMixin(PreTrainedModel):
    """The part of the composites that encodes and aligns media."""

    config: AnyModalityConfig
    config_class = AnyModalityConfig
    language_model: PreTrainedModel
    _media_arguments: dict[str, tuple[str, str]]
    _summing: list[str]

    def tower(self, modality: str) -> PreTrainedModel:
        """The tower that a modality uses, its own or borrowed."""
        return getattr(self, f"{self.config.modalities[modality].tower}_tower")

    def aligner(self, modality: str) -> PreTrainedModel:
        """The aligner that a modality uses, its own or borrowed."""
        return getattr(self, f"{self.config.modalities[modality].aligner}_aligner")

    def get_modality_features(
        self,
        modality: str,
        main_input: torch.Tensor | None = None,
        *,
        features: torch.Tensor | None = None,
        feature_lengths: torch.Tensor | None = None,
        frames: torch.Tensor | None = None,
        adapter: str | None = None,
        return_dict: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **inputs: torch.Tensor,
    ) -> EncodedMedia | tuple:
        """Encodes and aligns the media of one modality.

        Args:
            modality: its name.
            main_input, inputs: the model inputs of that modality (`config.modalities[modality].inputs`).
            features: stored features of the tower, see `EncodedMedia`, instead of inputs.
            feature_lengths: `(all frames,)` int64, real features of each frame, if they differ.
            frames: `(items,)` int64, frames of each item, if they differ.
            adapter: PEFT adapter whose aligner is used, instead of the active adapter's.

        Returns:
            The tower's features and the language-model tokens, see `EncodedMedia`.
        """
        settings, output = self.config.modalities[modality], None
        if main_input is not None:
            inputs[settings.main_input] = main_input
        sizes = {"features": features, "feature_lengths": feature_lengths, "frames": frames}
        _check_sizes(modality, settings, {*inputs, *(name for name, value in sizes.items() if value is not None)})
        if features is None:
            recorded = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
            features, output = self.encode(modality, inputs, **{k: v for k, v in recorded.items() if v})
        tokens, token_mask = self.align(modality, features, feature_lengths, frames, adapter)
        output = EncodedMedia(
            last_hidden_state=features,
            pooler_output=tokens,
            token_mask=token_mask,
            hidden_states=None if output_hidden_states is False else getattr(output, "hidden_states", None),
            attentions=None if output_attentions is False else getattr(output, "attentions", None),
        )
        return output if return_dict or (return_dict is None and self.config.return_dict) else output.to_tuple()

    def encode(self, modality: str, inputs: MediaInputs, **recorded: bool) -> tuple[torch.Tensor, Any]:
        """Runs the tower: features, as in `EncodedMedia`, and its own output. ConfigError if the config contradicts it."""
        settings, width = self.config.modalities[modality], self.aligner(modality).config.feature_size
        if torch.compiler.is_compiling():  # a `try` would break the graph
            return self.encode_by(settings, modality, inputs, **recorded)
        try:
            features, output = self.encode_by(settings, modality, inputs, **recorded)
            if features.shape[-1] != width:
                raise ValueError(f"Features of {modality!r} are {tuple(features.shape)}, not {width} wide.")
        except Exception as error:
            if wrong := contradiction(self, modality, error):
                raise ConfigError(wrong) from error
            raise
        return features, output

    def encode_by(
        self, settings: ModalityConfig, modality: str, inputs: MediaInputs, **recorded: bool
    ) -> tuple[torch.Tensor, Any]:
        """As `encode`, with these settings and without the check."""
        tower, run = self.tower(modality), partial(self._encode, settings, **recorded)
        if INPUT_SIZES not in settings.inputs.values():
            return run(tower, inputs)
        sizes, alike = inputs.get(f"{modality}_{INPUT_SIZES}"), {**inputs}
        alike.pop(f"{modality}_{INPUT_SIZES}", None)
        dummy = dummy_inputs(settings, next(iter(alike.values())).device) if is_shared_out(tower) else None
        return encode_by_size(partial(run, tower), alike, sizes, dummy)

    @staticmethod
    def _encode(
        settings: ModalityConfig, tower: PreTrainedModel, inputs: Mapping[str, torch.Tensor], **recorded: bool
    ) -> tuple[torch.Tensor, Any]:
        """Encodes inputs that the tower reads in one run."""
        dtype = compute_dtype(tower)
        arguments = {
            settings.inputs[name]: value.to(dtype) if value.is_floating_point() else value
            for name, value in inputs.items()
        }
        if settings.side_by_side:
            main = settings.inputs[settings.main_input]
            arguments[main] = side_by_side(arguments[main])
        if (mask := settings.marks_padding) in arguments:
            arguments[mask] = arguments[mask].logical_not()
        items = next(iter(arguments.values())).shape[0]
        if settings.per_frame:
            arguments = {name: value.flatten(0, 1) for name, value in arguments.items()}
        needs_grad = is_trained(tower) or any(value.requires_grad for value in arguments.values())
        reading = (settings.select_layer, settings.select_feature, settings.packed, settings.channels_first)
        with torch.set_grad_enabled(torch.is_grad_enabled() and needs_grad):
            features, output = run_tower(tower, arguments, *reading, **recorded)
        if settings.num_frames is None or settings.packed:
            return features, output
        return features.unflatten(0, (items, -1)) if settings.per_frame else features.unsqueeze(1), output

    def align(
        self,
        modality: str,
        features: torch.Tensor,
        feature_lengths: torch.Tensor | None = None,
        frames: torch.Tensor | None = None,
        adapter: str | None = None,
    ) -> tuple[torch.Tensor | list[torch.Tensor], torch.Tensor | None]:
        """Runs the aligner on features (see `get_modality_features`): tokens, and the mask of seen ones or None."""
        aligner: Any = self.aligner(modality)
        if adapter is not None:
            copies = trained_copies(aligner)
            aligner = copies.get(adapter, copies[None])
        config: Any = aligner.config
        mask, given = None, features.to(compute_dtype(aligner))
        differ = feature_lengths is not None or frames is not None
        if differ:
            sizes = (None if size is None else size.to(given.device) for size in (feature_lengths, frames))
            given, mask = Frames(given, *sizes).by(config.reads)
        table = {"token_embeddings": self._token_embeddings(given)} if aligner.reads_token_embeddings else {}
        output = aligner(given, mask, **table)
        tokens, seen = output if isinstance(output, tuple) else (output, None)
        if not differ or config.gives_equal_counts:
            return tokens, seen
        inputs = {"feature_lengths": feature_lengths, "frames": frames}
        settings = self.config.modalities[modality]
        inputs = {name: size for name, size in inputs.items() if size is not None}
        return tokens_of_items(tokens, config, item_lengths(inputs, 1, settings.feature_length)), seen

    def _token_embeddings(self, like: torch.Tensor) -> torch.Tensor:
        """The language model's embedding of each token id, `(vocab, hidden)`, with the dtype and device of `like`."""
        embedding = self.language_model.get_input_embeddings()
        table = embedding.get_parameter("weight")
        # It scales or norms them, or the weights are elsewhere (offloaded, or sharded over processes).
        if type(embedding) is not nn.Embedding or table.is_meta or not table.numel():
            rows = table.shape[0] or self.config.get_text_config().vocab_size
            return embedding(torch.arange(rows, device=like.device)).to(like.device, like.dtype)
        return table.to(like.device, like.dtype)

    def encode_media(
        self,
        media: Mapping[str, MediaInputs],
        encoded: Mapping[str, Any] | None = None,
        given: torch.Tensor | None = None,
    ) -> tuple[dict[str, Any], list[torch.Tensor]]:
        """Encodes each modality of a batch once, in the order of the table.

        The order, and the set of trained or sharded parts that run, are the same in every process and at every step: with
        several processes, missing modalities run on a dummy item. Otherwise collectives would wait for ever.

        Args:
            media: see `split_media`.
            encoded: modality -> media that were encoded before; then dummy items do not run.
            given: `(batch, sequence)` ids or their embeddings, which show the row of each item.

        Returns:
            modality -> output of `get_modality_features`, or the entry of `encoded`; and the tokens of dummy items.
        """
        done, dummies = dict(encoded or {}), []
        for modality in self.config.modalities:
            if modality in media:
                if done.get(modality) is not None:
                    raise ValueError(
                        f"Both media and `mm_encoder_outputs` were given for {modality!r}; give only one."
                    )
                if "features" in media[modality]:
                    dummies += on_dummy_item(self, modality, beside_features=True)
                inputs: dict[str, Any] = {**media[modality], "return_dict": True}
                if given is not None and not self.training and "peft_config" in vars(self):
                    done[modality] = encode_by_adapter(self, modality, media[modality], given)
                if done.get(modality) is None:
                    done[modality] = self.get_modality_features(modality, **inputs)
            elif encoded is None:
                dummies += on_dummy_item(self, modality)
        return {modality: output for modality, output in done.items() if output is not None}, dummies

    def placeholder_mask(self, modality: str, given: torch.Tensor) -> torch.Tensor:
        """`(batch, sequence)` bool, True at the placeholders of a modality, found by id in `(batch, sequence)`, or by
        embedding in `(batch, sequence, hidden)`."""
        token_id = self.config.modalities[modality].token_id
        if given.ndim == 2:
            return given == token_id
        row = self.language_model.get_input_embeddings()(torch.full((1,), token_id, device=given.device))
        return (given == row.to(given.dtype)).all(-1)

    def place_media(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, encoded: Mapping[str, Any]
    ) -> "Placed":
        """Puts encoded media into the places of their placeholders.

        Args:
            input_ids, inputs_embeds: `(batch, sequence)`, or their embeddings `(batch, sequence, hidden)`.
            encoded: modality -> output of `get_modality_features`, or its tokens.

        Raises:
            ValueError: placeholders and tokens differ in number, or placeholders have no media.
        """
        given = inputs_embeds if input_ids is None else input_ids
        if given is None or (input_ids is not None and inputs_embeds is not None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        embedding = self.language_model.get_input_embeddings()
        placed = Placed(embedding(input_ids) if inputs_embeds is None else inputs_embeds)
        alone = given.shape[1] == 1
        if alone and not encoded:  # one new token is never a placeholder: those are not sampled
            return placed
        # Embeddings do not distinguish a placeholder without media from a text token with the same embedding.
        masks = {
            name: self.placeholder_mask(name, given)
            for name in self.config.modalities
            if input_ids is not None or name in encoded or name in self._summing
        }
        placed.tokens = {
            name: output if isinstance(output, torch.Tensor) else output.pooler_output
            for name, output in encoded.items()
        }
        flat = {
            name: tokens.flatten(0, -2) if isinstance(tokens, torch.Tensor) else torch.cat(list(tokens))
            for name, tokens in placed.tokens.items()
        }
        whole = input_ids is not None and not alone
        wanted = {name: flat[name].shape[0] if name in flat else 0 for name in masks if whole or name in flat}
        if wanted:  # all at once, so that the host waits for the device only once
            right = torch.stack([masks[name].sum() == count for name, count in wanted.items()])
            torch_compilable_check(right, partial(wrong_count, masks, wanted))
        for name, tokens in flat.items():
            _replace(placed, masks[name], tokens, getattr(encoded[name], "token_mask", None))
        if self._summing and not alone:
            _sum_runs(placed, torch.stack([masks[name] for name in self._summing]).any(0))
        return placed


def _check_sizes(modality: str, settings: ModalityConfig, given: Collection[str]) -> None:
    """Raises ValueError if sizes that separate the media are missing from `get_modality_features`' arguments."""
    grid = settings.grid if "features" not in given else None
    needed = {"num_frames": "frames" if settings.num_frames is None else None, "grid": grid}
    needed["packed"] = "feature_lengths" if settings.packed else None
    if missing := [key for key, name in needed.items() if name is not None and name not in given]:
        raise ValueError(
            f"{modality!r} was given without {needed[missing[0]]}, which separates its media by `modalities.{modality}."
            f"{missing[0]}` of config.json. Pass the processor's full output to the model."
        )


# --- placeholders ---------------------------------------------------------------------------------------------------


@dataclass
class Placed:
    """Embeddings with media in their places.

    Attributes:
        inputs_embeds: `(batch, sequence, hidden)`, every placeholder replaced.
        unseen: `(batch, sequence)` bool, True at placeholders that the language model does not see: those of unneeded
            tokens, and of media that are added to the one before. None if it sees all.
        tokens: modality -> the tokens that replaced its placeholders, `(items, tokens, hidden)` or a list of such.
    """

    inputs_embeds: torch.Tensor
    unseen: torch.Tensor | None = None
    tokens: dict[str, Any] = field(default_factory=dict)


def _replace(placed: Placed, mask: torch.Tensor, flat: torch.Tensor, token_mask: torch.Tensor | None) -> None:
    """Puts tokens `(total tokens, hidden)` into the places of `mask`, and hides those that `token_mask` excludes."""
    embeds = placed.inputs_embeds
    flat = flat.to(embeds.device, embeds.dtype)
    placed.inputs_embeds = embeds.masked_scatter(mask.unsqueeze(-1).to(embeds.device), flat)
    if token_mask is not None:
        _hide(placed, torch.zeros_like(mask).masked_scatter(mask, ~token_mask.to(mask.device)))


def _sum_runs(placed: Placed, summed: torch.Tensor) -> None:
    """Adds the embeddings of each run of `summed` places into its first, and hides the others."""
    rows, length, _ = placed.inputs_embeds.shape
    follows = summed & nn.functional.pad(summed, (1, 0))[:, :-1]
    _hide(placed, follows)
    summed, follows = summed.to(placed.inputs_embeds.device), follows.to(placed.inputs_embeds.device)
    first = summed & ~follows
    place = torch.arange(length, device=summed.device)
    # For each summed place, the start of its run.
    begin = torch.where(first, place, -1).cummax(1).values
    target = (torch.arange(rows, device=summed.device)[:, None] * length + begin).clamp(min=0).flatten()
    parts = placed.inputs_embeds.masked_fill(~summed[..., None], 0).flatten(0, 1)
    sums = torch.zeros_like(parts).index_add(0, target, parts).unflatten(0, (rows, length))
    placed.inputs_embeds = torch.where(first[..., None], sums, placed.inputs_embeds)


def _hide(placed: Placed, places: torch.Tensor) -> None:
    placed.unseen = places if placed.unseen is None else placed.unseen | places


def cache_of(values: Mapping[str, Any]) -> Any | None:
    """The cache in a model's keyword arguments or output, under any of its names; None if there is none."""
    return next((value for name, value in values.items() if name in CACHE_NAMES and value is not None), None)


def cache_length(cache: Any | None) -> int:
    """Number of tokens in a cache; 0 without a cache, or if it does not store tokens."""
    return int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else 0


def hide(
    unseen: torch.Tensor | None, attention_mask: torch.Tensor | None, cache: Any | None, new: int
) -> torch.Tensor | None:
    """Removes hidden places, also of earlier turns, from the attention mask `(batch, length)`.

    Args:
        unseen: of the new inputs, which are the last ones of the mask; see `Placed`.
        cache: stores the places for later turns.
        new: tokens of the new inputs.
    """
    earlier: torch.Tensor | None = getattr(cache, "unseen_places", None)
    known = earlier if unseen is None else unseen
    if known is None or (attention_mask is not None and attention_mask.ndim != 2):
        return attention_mask
    if attention_mask is None:
        attention_mask = torch.ones(known.shape[0], cache_length(cache) + new, dtype=torch.long, device=known.device)
    length = attention_mask.shape[1]
    places = torch.zeros_like(attention_mask, dtype=torch.bool)
    if unseen is not None:
        places |= nn.functional.pad(unseen.to(places.device), (length - unseen.shape[1], 0))
    if earlier is not None:
        places |= nn.functional.pad(earlier.to(places.device), (0, length - earlier.shape[1]))
    if cache is not None:
        cache.unseen_places = places
    return attention_mask.masked_fill(places, 0)
