"""Support for PEFT: copies of aligners, and adapters per row."""

from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from ..utils.upstream import adapters_of_rows
from .configuration import SIZES
from .frames import take_items


def trained_copies(aligner: nn.Module) -> dict[str | None, nn.Module]:
    """The aligner itself (None) and, if PEFT trains it, the copy of each adapter."""
    children = dict(aligner.named_children())
    if "modules_to_save" not in children:
        return {None: aligner}
    return {None: children["original_module"], **dict(children["modules_to_save"].named_children())}


def items_by_adapter(
    tower: nn.Module, aligner: nn.Module, places: torch.Tensor, counts: list[int]
) -> dict[str, list[int]] | None:
    """The items of each adapter, if PEFT has one for each row (`adapter_names`): an item uses the adapter of its row.

    Args:
        places: `(batch, sequence)` bool, True at placeholders of the items.
        counts: number of placeholders of each item.

    Returns:
        Adapter -> indices of items; None if rows have no adapters.

    Raises:
        ValueError: an adapter has layers inside the tower or the aligner, which see items, not rows.
    """
    inner = (module for part in (tower, aligner) for module in part.modules() if module is not aligner)
    if any(adapters_of_rows(module) for module in inner):
        raise ValueError(
            "`adapter_names` gives each row an adapter, but some adapters have layers inside a tower or an aligner, which "
            "see media, not rows. Run the rows of each adapter separately (set_adapter)."
        )
    names = adapters_of_rows(aligner)
    if names is None:
        return None
    names = names[:: max(1, len(names) // len(places))]  # beams of a row are neighbours
    ends, items = list(accumulate(places.sum(-1).tolist())), {}
    for item, start in enumerate([0, *accumulate(counts)][:-1]):
        row = min(bisect_right(ends, start), len(names) - 1)
        items.setdefault(names[row], []).append(item)
    return items


def encode_by_adapter(
    model: Any, modality: str, inputs: Mapping[str, torch.Tensor], given: torch.Tensor
) -> Any | None:
    """As `get_modality_features` of a composite, each item with the aligner of its row's adapter; None if rows have no
    adapters. `given`: `(batch, sequence)` ids or their embeddings, which show the row of each item."""
    places, counts = model.placeholder_mask(modality, given), model.config.token_counts(modality, inputs)
    by_adapter = items_by_adapter(model.tower(modality), model.aligner(modality), places, counts)
    if by_adapter is None:
        return None
    media = {name: value for name, value in inputs.items() if name not in SIZES}
    features = media["features"] if "features" in media else model.encode(modality, media)[0]
    given: dict[str, Any] = {"features": features, **{name: inputs[name] for name in SIZES if name in inputs}}
    tokens, seen = {}, {}
    output: Any = None
    for adapter, items in by_adapter.items():
        own = take_items(model.config.modalities[modality], given, items)
        output = model.get_modality_features(modality, **own, adapter=adapter, return_dict=True)
        tokens |= zip(items, output.pooler_output, strict=True)
        if output.token_mask is not None:
            seen |= zip(items, output.token_mask, strict=True)
    whole = [tokens[item] for item in range(len(counts))]
    output.last_hidden_state = features
    output.pooler_output = torch.stack(whole) if isinstance(output.pooler_output, torch.Tensor) else whole
    output.token_mask = torch.stack([seen[item] for item in range(len(counts))]) if seen else None
    return output
