"""What a converter says: where each tensor of a release goes, and what is composed for them to go into."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedConfig

from ..utils.registry import Registry
from ._release import Release, Tensors


@dataclass(frozen=True)
class Options:
    """What a user may ask of a conversion.

    Args:
        language_model: Hub id or path of another language model than the release's.
        tokenizer: Hub id or path; found with the language model or in the release if left out.
        merge: merge adapters of the release into its language model.
        faithful: reproduce the release's known bugs.
    """

    language_model: str | None = None
    tokenizer: str | None = None
    merge: bool = False
    faithful: bool = False


@dataclass(frozen=True)
class Rule:
    """Where tensors of a release go.

    Args:
        source: regular expression for the whole of a tensor's name.
        target: its name in ours, with groups as `\\1`; several if `change` splits it; None if it is not used.
        change: what becomes of the tensor (and of those of `also`); a tuple for several targets.
        also: further tensors of the release that `change` is given, by name, with groups as `\\1`.
        reason: why it is not used.
    """

    source: str
    target: str | tuple[str, ...] | None = None
    change: Callable[..., Any] | None = None
    also: tuple[str, ...] = ()
    reason: str = ""

    def __post_init__(self):
        if self.target is None and not self.reason:
            raise ValueError(f"The rule for {self.source!r} uses nothing, and gives no reason.")


@dataclass
class Plan:
    """What a release becomes.

    Args:
        compose: arguments of `compose`, parts being configs; the language model a Hub id or path if the user chose one.
        tower: config of the tower or aligner alone, for releases that hold nothing else; instead of `compose`.
        processor: of that tower, to be saved beside it.
        weights: files and the rules for them; names of ours begin with the part's (`image_tower.`, `language_model.`).
        adapter: a `LoraConfig`'s fields, for a release with LoRA weights that stay an adapter, and their files and rules.
        licence: of the weights; SPDX or Hugging Face's name for it.
        notes: for the model card.
    """

    compose: dict[str, Any] | None = None
    tower: PreTrainedConfig | None = None
    processor: Any = None
    weights: list[tuple[Tensors, list[Rule]]] = field(default_factory=list)
    adapter: tuple[dict[str, Any], list[tuple[Tensors, list[Rule]]]] | None = None
    licence: str = "other"
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Conversion:
    """How one system's releases are converted.

    Args:
        plan: `(Release, Options) -> Plan`.
        help: one line about the files that are read.
    """

    plan: Callable[[Release, Options], Plan]
    help: str


CONVERSIONS: Registry[Conversion] = Registry("conversion")


def register_conversion(name: str, *, help: str):
    """Function decorator: makes `anymodality convert name` call it for the plan."""

    def decorate(plan: Callable[[Release, Options], Plan]) -> Callable[[Release, Options], Plan]:
        CONVERSIONS.register(name, Conversion(plan, help))
        return plan

    return decorate


@dataclass
class Applied:
    """What became of a release's tensors: `used` by name, and `unused` name -> reason."""

    used: set[str] = field(default_factory=set)
    unused: dict[str, str] = field(default_factory=dict)


def apply_rules(tensors: Tensors, rules: Iterable[Rule], applied: Applied) -> Iterator[tuple[str, torch.Tensor]]:
    """Our names and tensors, one after the other; only one tensor of the release is in memory.

    Raises:
        ValueError: a tensor that no rule speaks of, or one that a rule needs is missing; both before anything is given.
    """
    rules = [(re.compile(rule.source), rule) for rule in rules]
    chosen: list[tuple[str, re.Match, Rule]] = []
    strange = []
    for name in tensors:
        found = next(((match, rule) for pattern, rule in rules if (match := pattern.fullmatch(name))), None)
        if found is None:
            strange.append(name)
        else:
            chosen.append((name, *found))
    helpers = {match.expand(name) for _, match, rule in chosen for name in rule.also}
    if missing := sorted(helpers - set(tensors)):
        raise ValueError(f"The release lacks {len(missing)} tensors that belong to others: {_some(missing)}.")
    if strange := [name for name in strange if name not in helpers]:
        raise ValueError(
            f"{len(strange)} tensors of {tensors.files[0].name} have no place in this system: {_some(strange)}. Is it "
            "another release? Nothing was written."
        )
    for name, match, rule in chosen:
        if rule.target is None:
            if name not in helpers:
                applied.unused[name] = rule.reason
            continue
        applied.used |= {name, *(others := [match.expand(other) for other in rule.also])}
        value = tensors[name]
        if rule.change is not None:
            value = rule.change(value, *(tensors[other] for other in others))
        if isinstance(rule.target, str):
            yield match.expand(rule.target), value
        else:
            yield from zip((match.expand(target) for target in rule.target), value, strict=True)


def _some(names: list[str], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
