"""From media to tokens: each modality of a batch runs through its tower and its aligner, once.

Dimensions: `items` media of one modality in the batch, `frames` per item, `length` features per frame, `dim` the
tower's width, `tokens` per item, `hidden` the language model's width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..towers import run_tower
from .configuration import AnyModalityConfig
from .distributed import must_take_part


@dataclass
class EncodedMedia(BaseModelOutputWithPooling):
    """`last_hidden_state`: the tower's features `(items, frames, length, dim)`; `pooler_output`: language-model tokens
    `(items, tokens, hidden)`, or a list of `(tokens, hidden)` where their number differs; `token_mask`: `(items, tokens)`
    bool, True for the tokens that the language model sees, None if it sees all."""

    token_mask: torch.BoolTensor | None = None


class MediaEncodingMixin:
    """The part of the composites that encodes and aligns media."""

    config: AnyModalityConfig

    def tower(self, modality: str) -> PreTrainedModel:
        return getattr(self, f"{self.config.modalities[modality]['tower']}_tower")

    def aligner(self, modality: str) -> PreTrainedModel:
        return getattr(self, f"{self.config.modalities[modality]['aligner']}_aligner")

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
            main_input, inputs: the model inputs of that modality (`config.modalities[modality]["inputs"]`).
            features: what the tower gave before, `(items, frames, length, dim)`, instead of inputs.
            feature_lengths: `(items,)` int64, real features per frame where that differs between items.

        Returns:
            The tower's features and the language-model tokens, see `EncodedMedia`.
        """
        row = self.config.modalities[modality]
        output: Any = None
        if features is None:
            if main_input is not None:
                inputs[next(iter(row["inputs"]))] = main_input
            recorded = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
            features, output = self._encode(modality, inputs, {k: v for k, v in recorded.items() if v})
        tokens, token_mask = self._align(modality, features, feature_lengths)
        output = EncodedMedia(
            last_hidden_state=features,
            pooler_output=tokens,
            token_mask=token_mask,
            hidden_states=None if output_hidden_states is False else getattr(output, "hidden_states", None),
            attentions=None if output_attentions is False else getattr(output, "attentions", None),
        )
        return output if return_dict or (return_dict is None and self.config.return_dict) else output.to_tuple()

    def _encode(self, modality: str, inputs: dict[str, torch.Tensor], recorded: dict[str, bool]):
        """Runs the tower: `(features (items, frames, length, dim), the tower's own output)`."""
        row, tower = self.config.modalities[modality], self.tower(modality)
        dtype = _dtype(tower)
        arguments = {
            row["inputs"][name]: value.to(dtype) if value.is_floating_point() else value
            for name, value in inputs.items()
        }
        items = len(next(iter(arguments.values())))
        if row["per_frame"]:
            arguments = {name: value.flatten(0, 1) for name, value in arguments.items()}
        needs_grad = is_trained(tower) or any(value.requires_grad for value in arguments.values())
        with torch.set_grad_enabled(torch.is_grad_enabled() and needs_grad):
            features, output = run_tower(tower, arguments, row["select_layer"], row["select_feature"], **recorded)
        features = features.unflatten(0, (items, -1)) if row["per_frame"] else features.unsqueeze(1)
        return features, output

    def _align(self, modality: str, features: torch.Tensor, feature_lengths: torch.Tensor | None):
        """Runs the aligner on `(items, frames, length, dim)` features: tokens, and which of them are seen or None."""
        aligner = self.aligner(modality)
        features, mask = features.to(_dtype(aligner)), None
        if feature_lengths is not None:
            place = torch.arange(features.shape[2], device=features.device)
            mask = (place < feature_lengths.to(features.device)[:, None])[:, None].expand(features.shape[:3])
        table = {"token_embeddings": self._token_embeddings(features)} if aligner.reads_token_embeddings else {}
        output = aligner(features, mask, **table)
        tokens, token_mask = output if isinstance(output, tuple) else (output, None)
        if feature_lengths is None or self.config.aligner_config(modality).num_tokens is not None:
            return tokens, token_mask
        config, counts = self.config.aligner_config(modality), feature_lengths.tolist()
        rows = zip(tokens, counts, strict=True)
        return [row[: config.count_tokens(features.shape[1], n)] for row, n in rows], token_mask

    def _token_embeddings(self, like: torch.Tensor) -> torch.Tensor:
        """What the language model makes of each token id, `(vocab, hidden)`, with the dtype and device of `like`."""
        embedding = self.get_input_embeddings()
        table = embedding.weight
        # It scales or norms them, or the weights are elsewhere (offloaded, or shared out among processes).
        if type(embedding) is not nn.Embedding or table.is_meta or not table.numel():
            rows = table.shape[0] or self.config.get_text_config().vocab_size
            table = embedding(torch.arange(rows, device=like.device))
        return table.to(like.device, like.dtype)

    def _take_media(self, kwargs: dict[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
        """Takes the media out of forward's kwargs: modality -> arguments of `get_modality_features`."""
        media: dict[str, dict[str, torch.Tensor]] = {}
        owners = self.config.input_modalities
        for name in list(kwargs):
            if name in owners:
                modality, key = owners[name], name
            else:
                modality, key = next(
                    (
                        (m, k)
                        for m in self.config.modalities
                        for k in ("features", "feature_lengths")
                        if name == f"{m}_{k}"
                    ),
                    (None, None),
                )
            if modality is not None and (value := kwargs.pop(name)) is not None:
                media.setdefault(modality, {})[key] = value
        return {m: inputs for m, inputs in media.items() if set(inputs) != {"feature_lengths"}}

    def encode_media(
        self, kwargs: dict[str, Any], encoded: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], list[torch.Tensor]]:
        """Takes the media out of `kwargs` and encodes each modality once, in the order of the table.

        The order is the same in every process and at every step, and so is which trained or sharded parts run: for a
        modality that the batch lacks, they run on a made-up item. Else collectives would wait for each other for ever.

        Args:
            kwargs: of forward; media are removed.
            encoded: modality -> what was encoded before; then nothing is made up.

        Returns:
            modality -> output of `get_modality_features`; and the tokens of made-up items.
        """
        media, done, made_up = self._take_media(kwargs), dict(encoded or {}), []
        for modality in self.config.modalities:
            if modality in media and done.get(modality) is not None:
                raise ValueError(f"Both media and `mm_encoder_outputs` were given for {modality!r}; give one.")
            if modality in media:
                if "features" in media[modality]:
                    made_up += self._beside_features(modality)
                done[modality] = self.get_modality_features(modality, **media[modality], return_dict=True)
            elif encoded is None and (tokens := self._made_up(modality)) is not None:
                made_up.append(tokens)
        return {modality: output for modality, output in done.items() if output is not None}, made_up

    def _beside_features(self, modality: str) -> list[torch.Tensor]:
        """What a tower whose features are given has to do: nothing, but that one whose weights are spread over processes
        runs on a made-up item, as it runs in those that have media or lack them."""
        tower = self.tower(modality)
        if tower.training and torch.is_grad_enabled() and is_trained(tower):
            raise ValueError(
                f"Features of {modality!r} were given, but its tower is trained, and would learn nothing from features "
                "that were computed before. Freeze it (set_trainable), or train on media, without a feature store."
            )
        return [self._encode(modality, self._made_up_item(modality), {})[0]] if must_take_part(tower) else []

    def _made_up_item(self, modality: str) -> dict[str, torch.Tensor]:
        row, device = self.config.modalities[modality], next(self.aligner(modality).parameters()).device
        shape, dtype = row["input_shape"], getattr(torch, row["input_dtype"])
        # Not constant: normalisation over a constant signal divides by zero.
        wave = torch.arange(torch.Size(shape).numel(), device=device).view(1, *shape).float().sin()
        item = wave.to(dtype) if dtype.is_floating_point else torch.zeros_like(wave, dtype=dtype)
        return {next(iter(row["inputs"])): item}

    def _made_up(self, modality: str) -> torch.Tensor | None:
        """Tokens of a made-up item, run through the parts that must take part; None if none must."""
        row, tower, aligner = self.config.modalities[modality], self.tower(modality), self.aligner(modality)
        if must_take_part(tower):
            output = self.get_modality_features(modality, **self._made_up_item(modality), return_dict=True)
            tokens = output.pooler_output
        elif must_take_part(aligner):
            shape = (
                1,
                row["num_frames"],
                row["feature_length"] or 1,
                self.config.aligner_config(modality).feature_size,
            )
            tokens, _ = self._align(modality, torch.ones(shape, device=next(aligner.parameters()).device), None)
        else:
            return None
        return tokens if isinstance(tokens, torch.Tensor) else torch.cat(tokens)


def is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _dtype(module: nn.Module) -> torch.dtype:
    """The dtype that a module computes in: its first floating-point parameter's."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.get_default_dtype())
