"""From media to tokens: each modality of a batch runs through its tower and its aligner, once.

Dimensions: `items` media of one modality in the batch, `frames` per item, `length` features per frame, `dim` the
tower's width, `tokens` per item, `hidden` the language model's width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..towers import run_tower
from .configuration import AnyModalityConfig
from .distributed import is_trained, must_take_part


# Arguments of one call of `get_modality_features`.
MediaInputs = dict[str, torch.Tensor]


@dataclass
class EncodedMedia(BaseModelOutputWithPooling):
    """`last_hidden_state`: the tower's features `(items, frames, length, dim)`; `pooler_output`: language-model tokens
    `(items, tokens, hidden)`, or a list of `(tokens, hidden)` where their number differs; `token_mask`: `(items, tokens)`
    bool, True for the tokens that the language model sees, None if it sees all."""

    token_mask: torch.BoolTensor | None = None


def split_media(config: AnyModalityConfig, kwargs: Mapping[str, Any]) -> tuple[dict[str, MediaInputs], dict[str, Any]]:
    """Splits the keyword arguments of a forward.

    Returns:
        modality -> the media given, as arguments of `get_modality_features`; and what is the language model's.
    """
    owners, media, rest = config.media_arguments, {}, {}
    for name, value in kwargs.items():
        if name not in owners:
            rest[name] = value
        elif value is not None:
            modality, argument = owners[name]
            media.setdefault(modality, {})[argument] = value
    # Processors may give it; placeholders are known by their ids.
    rest.pop("mm_token_type_ids", None)
    return {name: inputs for name, inputs in media.items() if set(inputs) != {"feature_lengths"}}, rest


class MediaEncodingMixin:
    """The part of the composites that encodes and aligns media."""

    config: AnyModalityConfig

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
        return_dict: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **inputs: torch.Tensor,
    ) -> EncodedMedia | tuple:
        """Encodes and aligns the media of one modality.

        Args:
            modality: its name.
            main_input, inputs: the model inputs of that modality (`config.modalities[modality].inputs`).
            features: what the tower gave before, `(items, frames, length, dim)`, instead of inputs.
            feature_lengths: `(items,)` int64, real features per frame where that differs between items.

        Returns:
            The tower's features and the language-model tokens, see `EncodedMedia`.
        """
        output: Any = None
        if features is None:
            if main_input is not None:
                inputs[self.config.modalities[modality].main_input] = main_input
            recorded = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
            features, output = self.encode(modality, inputs, **{k: v for k, v in recorded.items() if v})
        tokens, token_mask = self.align(modality, features, feature_lengths)
        output = EncodedMedia(
            last_hidden_state=features,
            pooler_output=tokens,
            token_mask=token_mask,
            hidden_states=None if output_hidden_states is False else getattr(output, "hidden_states", None),
            attentions=None if output_attentions is False else getattr(output, "attentions", None),
        )
        return output if return_dict or (return_dict is None and self.config.return_dict) else output.to_tuple()

    def encode(self, modality: str, inputs: MediaInputs, **recorded: bool) -> tuple[torch.Tensor, Any]:
        """Runs the tower: features `(items, frames, length, dim)`, and the tower's own output."""
        settings, tower = self.config.modalities[modality], self.tower(modality)
        dtype = compute_dtype(tower)
        arguments = {
            settings.inputs[name]: value.to(dtype) if value.is_floating_point() else value
            for name, value in inputs.items()
        }
        items = len(next(iter(arguments.values())))
        if settings.per_frame:
            arguments = {name: value.flatten(0, 1) for name, value in arguments.items()}
        needs_grad = is_trained(tower) or any(value.requires_grad for value in arguments.values())
        with torch.set_grad_enabled(torch.is_grad_enabled() and needs_grad):
            features, output = run_tower(tower, arguments, settings.select_layer, settings.select_feature, **recorded)
        return features.unflatten(0, (items, -1)) if settings.per_frame else features.unsqueeze(1), output

    def align(
        self, modality: str, features: torch.Tensor, feature_lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | list[torch.Tensor], torch.Tensor | None]:
        """Runs the aligner on features `(items, frames, length, dim)`: tokens, and which of them are seen or None."""
        aligner, config = self.aligner(modality), self.config.aligner_config(modality)
        features, mask = features.to(compute_dtype(aligner)), None
        if feature_lengths is not None:
            place = torch.arange(features.shape[2], device=features.device)
            mask = (place < feature_lengths.to(features.device)[:, None])[:, None].expand(features.shape[:3])
        table = {"token_embeddings": self._token_embeddings(features)} if aligner.reads_token_embeddings else {}
        output = aligner(features, mask, **table)
        tokens, token_mask = output if isinstance(output, tuple) else (output, None)
        if feature_lengths is None or config.num_tokens is not None:
            return tokens, token_mask
        counts = [config.count_tokens(features.shape[1], length) for length in feature_lengths.tolist()]
        return [item[:count] for item, count in zip(tokens, counts, strict=True)], token_mask

    def _token_embeddings(self, like: torch.Tensor) -> torch.Tensor:
        """What the language model makes of each token id, `(vocab, hidden)`, with the dtype and device of `like`."""
        embedding = self.get_input_embeddings()
        table = embedding.weight
        # It scales or norms them, or the weights are elsewhere (offloaded, or shared out among processes).
        if type(embedding) is not nn.Embedding or table.is_meta or not table.numel():
            rows = table.shape[0] or self.config.get_text_config().vocab_size
            table = embedding(torch.arange(rows, device=like.device))
        return table.to(like.device, like.dtype)

    def encode_media(
        self, media: Mapping[str, MediaInputs], encoded: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], list[torch.Tensor]]:
        """Encodes each modality of a batch once, in the order of the table.

        The order is the same in every process and at every step, and so is which trained or sharded parts run: for a
        modality that the batch lacks, they run on a dummy item. Otherwise collectives would wait for each other for ever.

        Args:
            media: see `split_media`.
            encoded: modality -> what was encoded before; then no dummy item runs.

        Returns:
            modality -> output of `get_modality_features`, or what `encoded` holds; and the tokens of dummy items.
        """
        done, dummies = dict(encoded or {}), []
        for modality in self.config.modalities:
            if modality in media:
                if done.get(modality) is not None:
                    raise ValueError(f"Both media and `mm_encoder_outputs` were given for {modality!r}; give one.")
                if "features" in media[modality]:
                    dummies += self._beside_features(modality)
                done[modality] = self.get_modality_features(modality, **media[modality], return_dict=True)
            elif encoded is None:
                dummies += self._dummy_tokens(modality)
        return {modality: output for modality, output in done.items() if output is not None}, dummies

    def _beside_features(self, modality: str) -> list[torch.Tensor]:
        """With precomputed features, a tower is not run, but if it is sharded: then it runs on a dummy item, as it does in
        the processes that have media or lack them."""
        tower = self.tower(modality)
        if tower.training and torch.is_grad_enabled() and is_trained(tower):
            raise ValueError(
                f"Features of {modality!r} were given, but its tower is trained, and would learn nothing from features "
                "that were computed before. Freeze it (set_trainable), or train on media, without a feature store."
            )
        return [self.encode(modality, self._dummy_item(modality))[0]] if must_take_part(tower) else []

    def _dummy_item(self, modality: str) -> MediaInputs:
        settings, device = self.config.modalities[modality], next(self.aligner(modality).parameters()).device
        shape, dtype = settings.input_shape, getattr(torch, settings.input_dtype)
        # Not constant: normalisation over a constant signal divides by zero.
        wave = torch.arange(torch.Size(shape).numel(), device=device).view(1, *shape).float().sin()
        return {
            settings.main_input: wave.to(dtype) if dtype.is_floating_point else torch.zeros_like(wave, dtype=dtype)
        }

    def _dummy_tokens(self, modality: str) -> list[torch.Tensor]:
        """Tokens of a dummy item, run through the parts that must take part; none if no part must."""
        settings, aligner = self.config.modalities[modality], self.aligner(modality)
        if must_take_part(self.tower(modality)):
            features, _ = self.encode(modality, self._dummy_item(modality))
        elif must_take_part(aligner):
            width = self.config.aligner_config(modality).feature_size
            shape = (1, settings.num_frames, settings.feature_length or 1, width)
            features = torch.ones(shape, device=next(aligner.parameters()).device)
        else:
            return []
        return [self.align(modality, features)[0]]


def compute_dtype(module: nn.Module) -> torch.dtype:
    """The dtype that a module computes in: that of its first floating-point parameter."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.get_default_dtype())
