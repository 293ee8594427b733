"""What composites return: encoded media, and the language model's own output with one more field; language models differ in
theirs."""

from dataclasses import dataclass, fields, make_dataclass
from functools import lru_cache
from inspect import signature
from typing import Any, get_args

import torch
from torch import nn
from transformers import modeling_outputs
from transformers.modeling_outputs import BaseModelOutputWithPooling, ModelOutput

from ..utils.upstream import CACHE_NAMES


@dataclass
class EncodedMedia(BaseModelOutputWithPooling):
    """`last_hidden_state`: the tower's features `(items, frames, length, dim)`, of items with other numbers of frames
    `(all frames, length, dim)`, of a tower that gives them as one row `(all features, dim)`; `pooler_output`:
    language-model tokens `(items, tokens, hidden)`, or a list of `(tokens, hidden)` where their number differs;
    `token_mask`: `(items, tokens)` bool, True for the tokens that the language model sees, None if it sees all."""

    # Always given; the base has no list, and its fields before this one have defaults.
    pooler_output: torch.Tensor | list[torch.Tensor] = None  # ty: ignore[invalid-assignment, incompatible-attribute-override]
    token_mask: torch.Tensor | None = None


class _WithMedia:
    """Base of the classes that are made here; no module holds them, so pickle and copy make them again."""

    def __reduce__(self):
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # ty: ignore[invalid-argument-type]
        return _restore, (type(self).__bases__[1], values)


def _restore(cls: type[ModelOutput], values: dict[str, Any]) -> ModelOutput:
    return OUTPUTS[cls](**values)


class _Outputs(dict[type, type]):
    """The language model's class of output -> the same with `modality_hidden_states`, made when first asked for."""

    def __missing__(self, cls: type) -> type:
        media = ("modality_hidden_states", dict[str, torch.Tensor] | None, None)
        self[cls] = make_dataclass(f"AnyModality{cls.__name__}", [media], bases=(_WithMedia, cls))
        return self[cls]


OUTPUTS = _Outputs()
# An exported program is loaded where no model is built, and knows its output's class by name.
for _cls in vars(modeling_outputs).values():
    if {*CACHE_NAMES}.intersection(getattr(_cls, "__dataclass_fields__", ())):
        OUTPUTS[_cls]


@lru_cache
def prepare_outputs(language: type[nn.Module]) -> None:
    """Makes the classes that this language model's forward is said to return: while torch.compile or torch.export traces
    a model, no class can be made."""
    returned = signature(language.forward).return_annotation
    for cls in get_args(returned) or (returned,):
        if isinstance(cls, type) and issubclass(cls, ModelOutput):
            OUTPUTS[cls]
