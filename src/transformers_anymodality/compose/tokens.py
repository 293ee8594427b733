"""The tokenizer's side of composing: its placeholder tokens, and what ends an answer."""

from __future__ import annotations

import copy
from typing import Any

from transformers import AutoTokenizer, GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from ..utils.upstream import name_or_path, name_special_token


_ROLES = {"bos": "begin", "eos": "end", "pad": "padding", "unk": "unknown"}


def load_tokenizer(tokenizer: Any, language_model: Any, **hub_kwargs: Any) -> PreTrainedTokenizerBase:
    """A copy of the one given, or else that of the language model; both as `compose` takes them."""
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return copy.deepcopy(tokenizer)
    config = getattr(language_model, "config", language_model)
    source = tokenizer or (name_or_path(config) if isinstance(config, PreTrainedConfig) else config)
    if not source:
        raise ValueError("The language model was not loaded from anywhere: pass its `tokenizer=`.")
    loaded: Any = AutoTokenizer.from_pretrained(source, **hub_kwargs)
    return loaded


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, tokens: dict[str, str]) -> dict[str, int]:
    """Sets padding, and makes the placeholder of each modality a special token with an attribute (`image_token`).

    Returns:
        modality -> its token's id.

    Raises:
        ValueError: nothing to pad with; a placeholder that text would hold by chance, or that means something else.
    """
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ValueError("The tokenizer has neither a padding nor an end token; set `tokenizer.pad_token`.")
        tokenizer.pad_token = tokenizer.eos_token
    # For generation; the collator pads on the right for training. What is saved are the init kwargs.
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"
    _check_placeholders(tokenizer, tokens)
    for name, token in tokens.items():
        tokenizer.add_special_tokens({"extra_special_tokens": [token]}, replace_extra_special_tokens=False)
        name_special_token(tokenizer, f"{name}_token", token)
    return {name: tokenizer.added_tokens_encoder[token] for name, token in tokens.items()}


def _check_placeholders(tokenizer: PreTrainedTokenizerBase, tokens: dict[str, str]) -> None:
    if len(set(tokens.values())) < len(tokens):
        raise ValueError(f"Each modality needs a placeholder token of its own: {tokens}.")
    words = tokenizer.get_vocab().keys() - tokenizer.added_tokens_encoder.keys()
    for name, token in tokens.items():
        if not isinstance(token, str) or not token.strip():
            raise ValueError(
                f"The placeholder token of {name!r} must be a string like {f'<{name}>'!r}, not {token!r}."
            )
        for role, word in _ROLES.items():
            if token == getattr(tokenizer, f"{role}_token"):
                raise ValueError(f"The placeholder {token!r} of {name!r} is the tokenizer's {word} token already.")
        if token in words:
            raise ValueError(
                f"The placeholder {token!r} of {name!r} is an ordinary word of the tokenizer; choose another."
            )


def set_generation(
    config: GenerationConfig, tokenizer: PreTrainedTokenizerBase, fields: dict[str, Any], text: dict[str, Any]
) -> None:
    """Sets fields; and what ends an answer ends its generation, too, where that is one token."""
    config.update(**fields)
    vocabulary = tokenizer.get_vocab()
    stops = [vocabulary[stop] for stop in text.get("stop", ()) if stop in vocabulary]
    if stops:
        ends = config.eos_token_id if config.eos_token_id is not None else tokenizer.eos_token_id
        ends = [] if ends is None else [ends] if isinstance(ends, int) else ends
        config.eos_token_id = [*ends, *(stop for stop in stops if stop not in ends)]
