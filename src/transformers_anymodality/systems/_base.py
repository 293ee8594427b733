"""Published systems by name: each a function that gives what `compose` takes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from .._registry import Registry


SYSTEMS: Registry[Callable[..., dict[str, Any]]] = Registry("system")


def register_system(preset: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Function decorator: makes a preset known by the function's name."""
    return SYSTEMS.register(preset.__name__, preset)


def load_tokenizer(tokenizer: Any, language_model: Any) -> PreTrainedTokenizerBase:
    """For presets that read or add to the tokenizer: a copy of the one given, or found with the language model."""
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return copy.deepcopy(tokenizer)
    config = getattr(language_model, "config", language_model)
    source = tokenizer or getattr(config, "_name_or_path", config)
    if not source:
        raise ValueError("The language model was not loaded from anywhere: pass its `tokenizer=`.")
    return AutoTokenizer.from_pretrained(source)
