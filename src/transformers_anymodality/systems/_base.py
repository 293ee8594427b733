"""Published systems by name: each a function that gives what `compose` takes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from ..utils.registry import Registry
from ..utils.upstream import name_or_path


# What the templates of the systems begin with: the words of a message, whose media they place themselves.
WORDS = """\
{%- macro words(content) -%}
{%- if content is string -%}{{- content -}}
{%- else -%}
{%- for part in content or [] -%}
{%- if part is string -%}{{- part -}}
{%- elif part.text is defined -%}{{- part.text -}}
{%- elif part.type not in media_tokens -%}{{- raise_exception('This model has no modality ' + part.type) -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
"""

SYSTEMS: Registry[Callable[..., dict[str, Any]]] = Registry("system")


def register_system(preset: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Function decorator: makes a preset known by the function's name."""
    return SYSTEMS.register(preset.__name__, preset)


def register_processor(auto_class: Any, model_type: str, processor: type | None = None, **kinds: Any) -> None:
    """Makes a sub-processor loadable by an Auto class, whose table has configs for keys: by one that stands for it.

    Args:
        auto_class: `AutoVideoProcessor`, `AutoFeatureExtractor`, ...
        model_type: a name that no model has.
        processor: the class.
        kinds: instead of it, what `auto_class.register` takes by name.
    """
    stand_in = type(f"{model_type}_config", (PreTrainedConfig,), {"model_type": model_type})
    auto_class.register(stand_in, *([] if processor is None else [processor]), **kinds, exist_ok=True)


def load_tokenizer(tokenizer: Any, language_model: Any) -> PreTrainedTokenizerBase:
    """For presets that read or add to the tokenizer: a copy of the one given, or found with the language model."""
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return copy.deepcopy(tokenizer)
    config = getattr(language_model, "config", language_model)
    source = tokenizer or (name_or_path(config) if isinstance(config, PreTrainedConfig) else config)
    if not source:
        raise ValueError("The language model was not loaded from anywhere: pass its `tokenizer=`.")
    return AutoTokenizer.from_pretrained(source)
