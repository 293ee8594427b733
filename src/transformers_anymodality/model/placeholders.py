"""Placeholders: where tokens of media stand among the embeddings, and which of those places the language model sees.

Dimensions: `batch` rows of `sequence` places; `hidden` the language model's width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.utils import torch_compilable_check

from ..utils.upstream import cache_length
from .configuration import AnyModalityConfig


@dataclass
class Placed:
    """Embeddings with media in their places.

    Attributes:
        inputs_embeds: `(batch, sequence, hidden)`, every placeholder replaced.
        unseen: `(batch, sequence)` bool, True at placeholders that the language model does not see: those of tokens that
            an item does not need, and of media that are added to the one before. None if it sees all.
        tokens: modality -> the tokens that replaced its placeholders, `(items, tokens, hidden)` or a list of such.
    """

    inputs_embeds: torch.Tensor
    unseen: torch.Tensor | None = None
    tokens: dict[str, Any] = field(default_factory=dict)


def placeholder_mask(
    token_id: int, embedding: nn.Module, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None
) -> torch.Tensor:
    """`(batch, sequence)` bool, True at placeholders of this id; found by their embedding where there are no ids."""
    if input_ids is not None:
        return input_ids == token_id
    row = embedding(torch.full((1,), token_id, device=inputs_embeds.device))
    return (inputs_embeds == row.to(inputs_embeds.dtype)).all(-1)


def place_media(
    config: AnyModalityConfig,
    embedding: nn.Module,
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
    encoded: Mapping[str, Any],
) -> Placed:
    """Puts encoded media into the places of their placeholders.

    Args:
        embedding: the language model's look-up of ids.
        encoded: modality -> output of `get_modality_features`, or its tokens.

    Raises:
        ValueError: placeholders and tokens differ in number, or placeholders have no media.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("Give exactly one of input_ids and inputs_embeds.")
    if inputs_embeds is None:
        inputs_embeds = embedding(input_ids)
    alone = inputs_embeds.shape[1] == 1
    if alone and not encoded:  # one new token is never a placeholder: they are not sampled
        return Placed(inputs_embeds)
    summing = set() if alone else {name for name in config.modalities if config.aligner_config(name).sum_neighbours}
    # By embedding, a placeholder without media cannot be told from a text's token that has the same.
    wanted = (
        config.modalities if input_ids is not None else [n for n in config.modalities if n in encoded or n in summing]
    )
    masks = {
        name: placeholder_mask(config.modalities[name].token_id, embedding, input_ids, inputs_embeds)
        for name in wanted
    }
    placed = Placed(inputs_embeds)
    for modality, mask in masks.items():
        if modality in encoded:
            _replace(placed, modality, mask, encoded[modality])
        elif input_ids is not None and not alone:
            torch_compilable_check(~mask.any(), partial(_missing_media, modality))
    if summing:
        _sum_runs(placed, torch.stack([masks[name] for name in sorted(summing)]).any(0))
    return placed


def _replace(placed: Placed, modality: str, mask: torch.Tensor, output: Any) -> None:
    """Puts one modality's tokens into the places of `mask`, and hides those that its `token_mask` leaves out."""
    tokens = output if isinstance(output, torch.Tensor) else output.pooler_output
    placed.tokens[modality] = tokens
    embeds = placed.inputs_embeds
    flat = tokens.flatten(0, -2) if isinstance(tokens, torch.Tensor) else torch.cat(list(tokens))
    flat = flat.to(embeds.device, embeds.dtype)
    found = mask.sum()
    torch_compilable_check(found == len(flat), partial(_wrong_count, modality, found, len(flat)))
    placed.inputs_embeds = embeds.masked_scatter(mask.unsqueeze(-1).to(embeds.device), flat)
    if (token_mask := getattr(output, "token_mask", None)) is not None:
        _hide(placed, torch.zeros_like(mask).masked_scatter(mask, ~token_mask.to(mask.device)))


def _sum_runs(placed: Placed, summed: torch.Tensor) -> None:
    """Adds the embeddings of each run of `summed` places into its first, and hides the others."""
    rows, length, _ = placed.inputs_embeds.shape
    follows = summed & nn.functional.pad(summed, (1, 0))[:, :-1]
    _hide(placed, follows)
    summed, follows = summed.to(placed.inputs_embeds.device), follows.to(placed.inputs_embeds.device)
    first = summed & ~follows
    place = torch.arange(length, device=summed.device)
    # Of each summed place, the place where its run begins.
    begin = torch.where(first, place, -1).cummax(1).values
    target = (torch.arange(rows, device=summed.device)[:, None] * length + begin).clamp(min=0).flatten()
    parts = placed.inputs_embeds.masked_fill(~summed[..., None], 0).flatten(0, 1)
    sums = torch.zeros_like(parts).index_add(0, target, parts).unflatten(0, (rows, length))
    placed.inputs_embeds = torch.where(first[..., None], sums, placed.inputs_embeds)


def _hide(placed: Placed, places: torch.Tensor) -> None:
    placed.unseen = places if placed.unseen is None else placed.unseen | places


def without_placeholders(config: AnyModalityConfig, input_ids: torch.Tensor) -> torch.Tensor:
    """Placeholders as padding, which every table that is read by ids has a row for."""
    ids = torch.tensor(config.placeholder_ids, device=input_ids.device)
    padding = getattr(config.get_text_config(), "pad_token_id", None) or 0
    return input_ids.masked_fill(torch.isin(input_ids, ids), padding)


def hide(unseen: torch.Tensor | None, attention_mask: torch.Tensor | None, cache: Any | None) -> torch.Tensor | None:
    """The attention mask `(batch, length)` without the places that are not seen, now or in earlier turns.

    Args:
        unseen: of the new inputs, which are the last ones of the mask; see `Placed`.
        cache: remembers the places for the turns to come.
    """
    earlier = getattr(cache, "unseen_places", None)
    if (unseen is None and earlier is None) or (attention_mask is not None and attention_mask.ndim != 2):
        return attention_mask
    if attention_mask is None:
        new = torch.zeros_like(earlier[:, :1]) if unseen is None else unseen
        length = cache_length(cache) + new.shape[1]
        attention_mask = torch.ones(len(new), length, dtype=torch.long, device=new.device)
    length = attention_mask.shape[1]
    places = torch.zeros_like(attention_mask, dtype=torch.bool)
    if unseen is not None:
        places |= nn.functional.pad(unseen.to(places.device), (length - unseen.shape[1], 0))
    if earlier is not None:
        places |= nn.functional.pad(earlier.to(places.device), (0, length - earlier.shape[1]))
    if cache is not None:
        cache.unseen_places = places
    return attention_mask.masked_fill(places, 0)


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
