"""Computes logits only where a label is supervised, if the Trainer needs only the loss."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


LOSS_ARGUMENTS = ("num_items_in_batch", "shift_labels", "ignore_index")


@lru_cache
def has_causal_loss(cls: type[PreTrainedModel]) -> bool:
    """Whether a causal language model's own loss is Transformers' (which shifts labels, and may have more to add).

    The decoders of encoder-decoders (such as BART) and some old models do not shift labels.
    """
    try:
        return "self.loss_function(" in inspect.getsource(cls.forward)
    except OSError:  # its source is not available
        return False


@contextmanager
def only_supervised(language: PreTrainedModel, labels: torch.Tensor) -> Iterator[None]:
    """Within, the language model's head computes logits, and so its loss, only at places whose next token is supervised.

    With a vocabulary of 128 thousand, one place's logits and their gradient take a megabyte in float32; most places are
    prompt, media or padding. The head gets the supervised ones as one row `(1, supervised, hidden)`, and the loss is the
    same sum. The host waits for the device once, to learn their number.

    Args:
        labels: `(batch, sequence)`, -100 where not supervised.
    """
    targets, head = nn.functional.pad(labels, (0, 1), value=-100)[:, 1:], language.get_output_embeddings()
    places = (targets != -100).flatten().nonzero().squeeze(-1)
    if head is None or places.shape[0] in (0, targets.numel()):
        yield
        return
    chosen = targets.flatten()[places][None]

    def narrow(module: nn.Module, arguments: tuple) -> tuple | None:
        states = arguments[0] if arguments else None
        if not isinstance(states, torch.Tensor) or states.ndim != 3 or states.shape[:2] != targets.shape:
            return None  # not the states
        return (states.flatten(0, 1)[places.to(states.device)][None], *arguments[1:])

    def loss(logits: torch.Tensor, labels: torch.Tensor, *arguments: Any, **kwargs: Any) -> torch.Tensor:
        if labels.shape == targets.shape and logits.shape[:2] == chosen.shape:
            kwargs["shift_labels"] = chosen
        return usual(logits, labels, *arguments, **kwargs)

    usual, own = language.loss_function, language.__dict__.get("_loss_function")
    handle = head.register_forward_pre_hook(narrow)
    language.loss_function = loss
    try:
        yield
    finally:
        handle.remove()
        del language._loss_function
        if own is not None:
            language.loss_function = own
