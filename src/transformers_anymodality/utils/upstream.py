"""What we use of Transformers and its kin that is private, unstable, or differs between the versions that we support."""

import re
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils import chat_template_utils


try:
    from transformers.cache_utils import DummyLayer  # since 5.23: a layer of a cache that is not asked for its length
except ImportError:

    class DummyLayer:
        """A layer of a cache that keeps no keys."""


# The cache's name in forwards, outputs, `generate` and masks: `cache` since Transformers 5.24; before that
# `past_key_values`, and `cache_params` of recurrent models.
CACHE_NAMES = ("cache", "past_key_values", "cache_params")
# The name to write.
CACHE_NAME = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"


def cache_of(values: Mapping[str, Any]) -> Any | None:
    """The cache among a model's keyword arguments or in its output, by whatever name; None if there is none."""
    return next((value for name, value in values.items() if name in CACHE_NAMES and value is not None), None)


def take_cache(kwargs: dict[str, Any]) -> Any | None:
    """As `cache_of`, and takes it out of a forward's own `kwargs`."""
    cache = cache_of(kwargs)
    for name in CACHE_NAMES:
        kwargs.pop(name, None)
    return cache


def cache_length(cache: Any | None) -> int:
    """How many tokens a cache holds; 0 without one, or for one that keeps no tokens."""
    return int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else 0


encode_chat_piece = chat_template_utils._encode_chat_piece
render_jinja_template = chat_template_utils.render_jinja_template
template_variables = chat_template_utils._get_template_variables


def mark_chat(tokenizer: PreTrainedTokenizerBase, template: str, *given: Any) -> tuple[Any, ...]:
    """What a template is given (messages, tools, ...), with marks around the control tokens in its texts."""
    pattern, _ = chat_template_utils._get_control_token_patterns(tokenizer._get_control_tokens(template))
    return tuple(chat_template_utils.mark_control_tokens(one, pattern) for one in given)


def mark_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern:
    """Finds what `mark_chat` marked in a rendered chat: group 1 is the control token, None for a mark alone."""
    return chat_template_utils._get_control_token_patterns(tuple(tokenizer.added_tokens_encoder))[1]
