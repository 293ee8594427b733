"""Turns prompts into the columns that a call returns, as the tokenizer's keyword arguments ask."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers.utils import PaddingStrategy

from .tokenization import Prompt, pad


# Transformers' other values for a strategy.
_PADDING = {True: "longest", False: "do_not_pad"}
# A tokenizer without a limit has a larger number.
_NO_LIMIT = 10**9


def lay_out(
    prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase, settings: Mapping[str, Any], mask: bool = False
) -> dict[str, list]:
    """Prompts truncated, with placeholders repeated, and padded.

    Args:
        settings: the tokenizer's keyword arguments for truncation, padding and outputs.
        mask: whether to return `assistant_masks`.

    Returns:
        `input_ids` and other requested outputs: arrays if `return_tensors` asks for tensors, else lists.
    """
    if settings.get("truncation") not in (None, False, "do_not_truncate"):
        limit, side = settings.get("max_length") or tokenizer.model_max_length, tokenizer.truncation_side
        prompts = [prompt.truncated(limit, side, f"Prompt {i}") for i, prompt in enumerate(prompts)]
    prompts = [prompt.expanded() for prompt in prompts]
    columns = {"input_ids": [prompt.ids for prompt in prompts]}
    if settings.get("return_attention_mask") is not False:
        columns["attention_mask"] = [np.ones_like(prompt.ids) for prompt in prompts]
    if settings.get("return_offsets_mapping"):
        if not tokenizer.is_fast:
            raise ValueError(
                "This tokenizer cannot return offsets: leave out return_offsets_mapping, or use a fast tokenizer."
            )
        columns["offset_mapping"] = [prompt.offsets for prompt in prompts]
    if mask:
        columns["assistant_masks"] = [prompt.said.astype(np.int64) for prompt in prompts]
    padding, limit = PaddingStrategy(_PADDING.get(settings.get("padding"), settings.get("padding"))), None
    if padding == PaddingStrategy.MAX_LENGTH:
        limit = settings.get("max_length") or tokenizer.model_max_length
    if padding != PaddingStrategy.DO_NOT_PAD and (limit or 0) < _NO_LIMIT:
        if tokenizer.pad_token_id is None:
            raise ValueError("The tokenizer has no padding token: set `tokenizer.pad_token`, or pass padding=False.")
        side = settings.get("padding_side") or tokenizer.padding_side
        for name, rows in columns.items():
            value = tokenizer.pad_token_id if name == "input_ids" else 0
            columns[name] = pad(rows, value, limit, settings.get("pad_to_multiple_of"), side)
    if settings.get("return_tensors") is None:
        columns = {name: [row.tolist() for row in rows] for name, rows in columns.items()}
    if settings.get("return_text_replacement_offsets"):
        columns["text_replacement_offsets"] = [[] for _ in prompts]  # offsets refer to the original text
    return columns
