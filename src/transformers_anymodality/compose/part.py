"""One modality while it is composed: what was asked for, and what has been found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from ..aligners import ALIGNERS, Aligner
from ..modalities import MODALITIES, ModalitySpec
from ..model.configuration import ModalityConfig
from ..utils.registry import did_you_mean


_FEATURES = ("all", "patches", "pooled")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Settings of a modality, as `compose` describes them; `options` are the spec's that were given."""

    tower: Any
    aligner: Any = "perceiver_resampler"
    num_tokens: int | None = None
    processor: Any = None
    select_layer: int | None = None
    select_feature: str = "all"
    per_frame: bool | None = None
    token: str
    revision: str | None = None
    options: dict[str, Any]


def read_settings(modalities: Mapping[str, Any]) -> dict[str, Asked]:
    """What is asked of each modality, in alphabetical order.

    Raises:
        ValueError: unknown or impossible settings.
    """
    asked = {name: _read(name, value) for name, value in sorted(modalities.items())}
    owners: dict[int, str] = {}
    for name, one in asked.items():
        if isinstance(one.tower, str) and one.tower in set(MODALITIES) - set(asked):
            raise ValueError(f"Modality {name!r} borrows the tower of {one.tower!r}, which is not being composed.")
        # A tower is saved once, under the name of the modality that it belongs to.
        owner = owners.setdefault(id(one.tower), name)
        if isinstance(one.tower, nn.Module) and owner != name:
            raise ValueError(
                f"{name!r} and {owner!r} are given the same tower object: let one borrow it, "
                f'"{name}": {{"tower": "{owner}"}}, or give each its own.'
            )
    return asked


def _read(name: str, value: Any) -> Asked:
    spec = MODALITIES[name]
    given: dict[str, Any] = dict(value) if isinstance(value, dict) else {"tower": value}
    if given.get("tower") is None:
        raise ValueError(f"Modality {name!r} needs a `tower`.")
    options = {key: given.pop(key) for key in spec.options if key in given}
    known = {field.name for field in fields(Asked)} - {"options"}
    if unknown := sorted(set(given) - known):
        known |= set(spec.options)
        raise ValueError(
            f"Unknown settings {unknown} for modality {name!r}.{did_you_mean(unknown[0], known)} "
            f"Known: {', '.join(sorted(known))}."
        )
    given = {"token": spec.token, **{key: one for key, one in given.items() if one is not None}}
    asked = Asked(**given, options=options)
    if asked.select_feature not in _FEATURES:
        raise ValueError(f"select_feature of {name!r} is {asked.select_feature!r}; it can be {', '.join(_FEATURES)}.")
    count = asked.num_tokens
    if count is not None and (not isinstance(count, int) or count < 1):
        raise ValueError(f"num_tokens of {name!r} is {count!r}; it must be a whole number from 1 on.")
    return asked


@dataclass(frozen=True)
class Trial:
    """What a dummy input has shown of a tower.

    Attributes:
        tower: which ran: the modality's own, or a small copy of one without weights.
        arguments: of its forward, for an item.
        features: of these, `(1 or frames, length, dim)`.
        length, width: of the features that the tower of the modality gives.
        unread: weights that features do not depend on, by name.
    """

    tower: PreTrainedModel
    arguments: dict[str, torch.Tensor]
    features: torch.Tensor
    length: int
    width: int
    unread: set[str]


@dataclass
class Part:
    """One modality while it is composed.

    Attributes:
        config: what the model will know of it.
        options: of its media.
        tower, processor, attribute: from `add_tower` on; where the processor keeps the sub-processor.
        arguments, reading, trial: from `try_tower` on; the sub-processor's name of an input -> the tower's argument; and
            what is the same for parts that read one tower in one way.
        aligner: from `add_aligner` on.
    """

    name: str
    asked: Asked
    config: ModalityConfig
    options: dict[str, Any] = field(init=False)
    tower: PreTrainedModel = field(init=False)
    processor: Any = field(init=False)
    attribute: str = field(init=False)
    arguments: dict[str, str] = field(init=False)
    reading: tuple[Any, ...] = field(init=False)
    trial: Trial = field(init=False)
    aligner: Aligner = field(init=False)

    def __post_init__(self) -> None:
        self.options = {**self.spec.options, **self.asked.options}

    @property
    def spec(self) -> ModalitySpec:
        return MODALITIES[self.name]

    def owns(self, role: Literal["tower", "aligner"]) -> bool:
        """Whether its tower or aligner is not borrowed."""
        return getattr(self.config, role) == self.name


def lenders_first(parts: dict[str, Part], role: Literal["tower", "aligner"]) -> list[tuple[Part, Part | None]]:
    """Each part, and the one whose tower or aligner it borrows.

    Raises:
        ValueError: a part borrows its own, or from a borrower.
    """
    lenders = {name: _lender(part, parts, role) for name, part in parts.items()}
    for name, lender in lenders.items():
        if lender is parts[name]:
            raise ValueError(f"Modality {name!r} cannot borrow its own {role}.")
        if lender is not None and lenders[lender.name] is not None:
            raise ValueError(f"Modality {name!r} borrows the {role} of {lender.name!r}, which borrows one itself.")
    return sorted(((part, lenders[name]) for name, part in parts.items()), key=lambda pair: pair[1] is not None)


def _lender(part: Part, parts: dict[str, Part], role: str) -> Part | None:
    named = getattr(part.asked, role)
    return parts.get(named) if isinstance(named, str) and not (role == "aligner" and named in ALIGNERS) else None
