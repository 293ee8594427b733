"""The loss where the Trainer asks for the loss alone: logits only where a label is supervised."""

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

    The decoders of encoder-decoders (BART and its kin) and some old models compare labels as they stand.
    """
    try:
        return "self.loss_function(" in inspect.getsource(cls.forward)
    except OSError:  # defined where there is no source
        return False


@contextmanager
def only_supervised(language: PreTrainedModel, labels: torch.Tensor, sliceable: bool) -> Iterator[int | torch.Tensor]:
    """Within, the language model computes its logits, and so its loss, only at positions whose next token is supervised.

    Of a vocabulary of 128 thousand, one position's logits and their gradient weigh a megabyte in float32; most positions
    are prompt, media or padding. In two steps, as each language model allows: positions that no row supervises are left
    out (`logits_to_keep`); of those left, the head gets each row's own alone, as one row `(1, supervised, hidden)`. The
    loss is the same sum.

    Args:
        labels: `(batch, sequence)`, -100 where not supervised.
        sliceable: whether its forward takes `logits_to_keep`.

    Yields:
        `logits_to_keep` for its forward, 0 for all.
    """
    targets = nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]
    supervised, keep = targets != -100, 0
    positions = supervised.any(0).nonzero().squeeze(-1)
    if sliceable and 0 < len(positions) < labels.shape[1]:
        keep, targets, supervised = positions, targets[:, positions], supervised[:, positions]
    if not len(positions) or (supervised.all() and isinstance(keep, int)):
        yield 0
        return
    whole, rows = labels.shape, targets[supervised][None]

    def narrow(module: nn.Module, arguments: tuple) -> tuple | None:
        states = arguments[0] if arguments else None
        if not isinstance(states, torch.Tensor) or states.ndim != 3 or states.shape[:2] != supervised.shape:
            return None  # not the states, or of fewer places than were asked for
        return (states[supervised.to(states.device)][None], *arguments[1:])

    def loss(logits: torch.Tensor, labels: torch.Tensor, *arguments: Any, **kwargs: Any) -> torch.Tensor:
        for shifted in (rows, targets):
            if labels.shape == whole and logits.shape[:2] == shifted.shape:
                kwargs["shift_labels"] = shifted
                break
        return usual(logits, labels, *arguments, **kwargs)

    usual, own = language.loss_function, language.__dict__.get("_loss_function")
    head = None if supervised.all() else language.get_output_embeddings()
    handle = None if head is None else head.register_forward_pre_hook(narrow)
    language.loss_function = loss
    try:
        yield keep
    finally:
        if handle is not None:
            handle.remove()
        del language._loss_function
        if own is not None:
            language.loss_function = own
