"""Parts without weights: checks that must run use a small copy of the same architecture."""

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..towers import cut_layers
from ..utils.upstream import is_offloaded


T = TypeVar("T")

# Names of fields that are widths of layers, and exceptions among them: counts and sizes of inputs. All widths are divided
# by one number: the number of heads stays, and sums and products of widths still agree.
_WIDTHS = re.compile(
    r"hidden_size|hidden_dim|d_model|d_inner|d_head|d_kv|d_ff|embd|embed|intermediate|inner|ffn|mlp|"
    r"_dims?$|dim_|rank|width|kv_channels|channels|chunk|experts$"
)
_NO_WIDTHS = re.compile(
    r"^(num|n)_(?!embd|inner|\w*experts$)|position|_ids?$|vocab|image|patch|kernel|stride|in_|input"
)
_FACTORS = (32, 16, 8, 4)
_VOCABULARY = 1024
# 1.2 GB; most copies have a few millions.
_MOST_WEIGHTS = 300_000_000


def is_weightless(module: nn.Module) -> bool:
    """Whether it was built on the meta device. An offloaded module is not weightless: hooks load its weights."""
    return any(weight.is_meta for weight in module.parameters()) and not is_offloaded(module)


@contextmanager
def on_cpu() -> Iterator[None]:
    """Function decorator: new tensors are real, also within `torch.device("meta")`."""
    with torch.device("cpu"):
        yield


def without_data(run: Callable[[], T]) -> T | None:
    """The result of `run` on the meta device; None if it reads data or uses another device."""
    try:
        return run()
    except Exception as error:  # a forward may raise anything
        if not any(word in str(error).lower() for word in ("meta", "device")):
            raise
        return None


def on_small_copy(
    config: PreTrainedConfig,
    build: Callable[[PreTrainedConfig], PreTrainedModel],
    question: Callable[[PreTrainedModel], T],
    *,
    same_width: bool = False,
    few_words: bool = False,
) -> T:
    """The result of `question` on the smallest copy that works: a narrow one, one of two layers, or one of full size.

    Args:
        config: of a part without weights; `build` makes a model of it and of smaller ones.
        question: called with a copy with random weights, in eval mode; if it raises, the copy is too small.
        same_width, few_words: use only copies as wide as the part; limit the vocabulary of copies to 1024.

    Raises ValueError if no copy works, with the last copy's error.
    """
    problem: Exception = ValueError(
        f"The smallest copy of a {config.model_type!r} is too large to try: pass the loaded model, with its weights."
    )
    for small in _smaller(config, same_width, few_words):
        try:
            with torch.device("meta"):
                size = sum(weight.numel() for weight in build(copy.deepcopy(small)).parameters())
            if size <= _MOST_WEIGHTS:
                return question(_random(small, build))
        except Exception as error:  # sizes that do not fit each other may raise anything
            problem = error
    if isinstance(problem, ValueError):
        raise problem
    raise ValueError(f"No small copy of a {config.model_type!r} runs: {problem}") from problem


def _smaller(config: PreTrainedConfig, same_width: bool, few_words: bool) -> Iterator[PreTrainedConfig]:
    narrow = [] if same_width else [_narrow(config, factor, few_words) for factor in _FACTORS]
    yield from narrow
    for one in (*narrow, config):
        with suppress(Exception):  # there is no stack of layers, or widths do not fit
            yield cut_layers(one, 2)
    yield config


def _narrow(config: PreTrainedConfig, factor: int, few_words: bool) -> PreTrainedConfig:
    config = copy.deepcopy(config)
    common = {own: name for name, own in config.attribute_map.items()}
    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            setattr(config, name, _narrow(value, factor, few_words))
        elif any(_WIDTHS.search(key) for key in (name, common.get(name, ""))) and not _NO_WIDTHS.search(name):
            setattr(config, name, _divided(value, factor))
        elif few_words and "vocab_size" in name and isinstance(value, int):
            setattr(config, name, min(value, _VOCABULARY))
        elif few_words and name.endswith("token_id") and isinstance(value, int) and value >= _VOCABULARY:
            setattr(config, name, 0)
    return config


def _divided(value: Any, factor: int) -> Any:
    """A width or a list of widths, divided; a value that cannot be divided stays."""
    if isinstance(value, (list, tuple)):
        return type(value)(_divided(one, factor) for one in value)
    wide = isinstance(value, int) and not isinstance(value, bool) and value >= 2 * factor and value % factor == 0
    return value // factor if wide else value


def _random(config: PreTrainedConfig, build: Callable[[PreTrainedConfig], PreTrainedModel]) -> PreTrainedModel:
    """A model with random weights, none of them zero: zeros, as in new gates and biases, hide the layers before them."""
    config = copy.deepcopy(config)
    config.dtype = torch.float32
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        torch.manual_seed(0)
        model = build(config).eval()
        for weight in model.parameters():
            if weight.is_floating_point() and weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))
    return model
