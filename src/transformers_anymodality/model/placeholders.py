"""Placeholders: where tokens of media stand among the embeddings, and which of those places the language model sees."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.utils import torch_compilable_check

from .configuration import AnyModalityConfig


class PlaceholderMixin:
    """The part of the composites that puts tokens of media into the embeddings."""

    config: AnyModalityConfig

    def get_placeholder_mask(self, modality: str, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor):
        """`(batch, sequence)` bool, True at the modality's placeholders; by embedding where there are no ids."""
        token_id = self.config.modalities[modality]["token_id"]
        if input_ids is not None:
            return input_ids == token_id
        embedding = self.get_input_embeddings()(torch.full((1,), token_id, device=inputs_embeds.device))
        return (inputs_embeds == embedding.to(inputs_embeds.dtype)).all(-1)

    def embed(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, encoded: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Embeddings `(batch, sequence, hidden)` with every placeholder replaced, and the tokens that replaced them."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        used: dict[str, torch.Tensor] = {}
        summed = self._summed_places(input_ids, inputs_embeds)
        for modality in self.config.modalities:
            mask = self.get_placeholder_mask(modality, input_ids, inputs_embeds)
            if modality not in encoded:
                # One new token is never a placeholder: they are not sampled.
                if inputs_embeds.shape[1] > 1 and input_ids is not None:
                    torch_compilable_check(~mask.any(), partial(_missing_media, modality))
                continue
            output = encoded[modality]
            tokens = output if isinstance(output, torch.Tensor) else output.pooler_output
            used[modality] = tokens
            flat = tokens.flatten(0, -2) if isinstance(tokens, torch.Tensor) else torch.cat(list(tokens))
            flat = flat.to(inputs_embeds.device, inputs_embeds.dtype)
            found = mask.sum()
            torch_compilable_check(found == len(flat), partial(_wrong_count, modality, found, len(flat)))
            inputs_embeds = inputs_embeds.masked_scatter(mask.unsqueeze(-1).to(inputs_embeds.device), flat)
        if summed is not None:
            inputs_embeds = _sum_runs(inputs_embeds, summed.to(inputs_embeds.device))
        return inputs_embeds, used

    def unseen_places(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, encoded: dict[str, Any]
    ) -> torch.Tensor | None:
        """`(batch, sequence)` bool, True at placeholders that the language model does not see: those of tokens that an
        item does not need, and of media that are added to the one before. None if it sees all."""
        unseen = None
        for modality, output in encoded.items():
            if (token_mask := getattr(output, "token_mask", None)) is not None:
                mask = self.get_placeholder_mask(modality, input_ids, inputs_embeds)
                here = torch.zeros_like(mask).masked_scatter(mask, ~token_mask.to(mask.device))
                unseen = here if unseen is None else unseen | here
        summed = self._summed_places(input_ids, inputs_embeds)
        if summed is not None:
            added = summed & nn.functional.pad(summed, (1, 0))[:, :-1]
            unseen = added if unseen is None else unseen | added
        return unseen

    def _summed_places(self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None):
        """`(batch, sequence)` bool, True at placeholders of media that are added to their neighbours, or None."""
        names = [name for name in self.config.modalities if self.config.aligner_config(name).sum_neighbours]
        if not names or (inputs_embeds if input_ids is None else input_ids).shape[1] == 1:
            return None
        return torch.stack([self.get_placeholder_mask(name, input_ids, inputs_embeds) for name in names]).any(0)

    def _without_placeholders(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Placeholders as padding, which every table that is read by ids has a row for."""
        ids = torch.tensor([row["token_id"] for row in self.config.modalities.values()], device=input_ids.device)
        padding = getattr(self.config.get_text_config(), "pad_token_id", None) or 0
        return input_ids.masked_fill(torch.isin(input_ids, ids), padding)


def hide(unseen: torch.Tensor | None, attention_mask: torch.Tensor | None, cache: Any | None) -> torch.Tensor | None:
    """The attention mask `(batch, length)` without the places that are not seen, now or in earlier turns.

    Args:
        unseen: of the new inputs, which are the last ones of the mask; see `unseen_places`.
        cache: remembers the places for the turns to come.
    """
    earlier = getattr(cache, "unseen_places", None)
    if (unseen is None and earlier is None) or (attention_mask is not None and attention_mask.ndim != 2):
        return attention_mask
    if attention_mask is None:
        past = cache.get_seq_length() if cache is not None else 0
        new = torch.zeros_like(earlier[:, :1]) if unseen is None else unseen
        attention_mask = torch.ones(len(new), past + new.shape[1], dtype=torch.long, device=new.device)
    length = attention_mask.shape[1]
    places = torch.zeros_like(attention_mask, dtype=torch.bool)
    if unseen is not None:
        places |= nn.functional.pad(unseen.to(places.device), (length - unseen.shape[1], 0))
    if earlier is not None:
        places |= nn.functional.pad(earlier.to(places.device), (0, length - earlier.shape[1]))
    if cache is not None:
        cache.unseen_places = places
    return attention_mask.masked_fill(places, 0)


def _sum_runs(inputs_embeds: torch.Tensor, summed: torch.Tensor) -> torch.Tensor:
    """Embeddings `(batch, sequence, hidden)` with those of each run of `summed` places added into its first."""
    rows, length, hidden = inputs_embeds.shape
    first = summed & ~nn.functional.pad(summed, (1, 0))[:, :-1]
    place = torch.arange(length, device=summed.device)
    # Of each summed place, the place where its run begins.
    begin = torch.where(first, place, -1).cummax(1).values
    target = (torch.arange(rows, device=summed.device)[:, None] * length + begin).clamp(min=0).flatten()
    parts = inputs_embeds.masked_fill(~summed[..., None], 0).flatten(0, 1)
    sums = torch.zeros_like(parts).index_add(0, target, parts).unflatten(0, (rows, length))
    return torch.where(first[..., None], sums, inputs_embeds)


def _missing_media(modality: str) -> str:
    return (
        f"input_ids hold placeholders of {modality!r}, but no {modality} was given. Pass the processor's whole output "
        "to the model; with Trainer, set remove_unused_columns=False."
    )


def _wrong_count(modality: str, tokens: torch.Tensor, features: int) -> str:
    return (
        f"{modality} features and placeholder tokens do not match, tokens: {int(tokens)}, features: {features}. "
        "Prepare text and media by one call of the processor that was saved with this model."
    )
