"""What every aligner is: a `PreTrainedModel` from tower features to language-model tokens, and how it is registered.

Dimensions used throughout: `items` media of one modality in the batch; `frames` per item, each what a tower reads at
once (an image, a tile of it, a frame of a video, a window of a recording); `length` features per frame, `dim` the
tower's width, `tokens` per item, `hidden` the language model's width.
"""

from collections.abc import Sequence
from inspect import get_annotations

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig
from transformers.activations import ACT2FN

from ..utils.checked import ConfigError, check_fields
from ..utils.part_model import PartModel
from ..utils.registry import Registry, config_class_of


# Of the numbers in configs, the smallest that makes sense; all others are 0 or more.
_LEAST = {"num_tokens": 1, "num_frames": 1, "feature_length": 1, "feature_size": 1, "hidden_size": 1}
_MOST_TOKENS = 2**17
ALIGNERS: "Registry[type[Aligner]]" = Registry("aligner")


class AlignerConfig(PreTrainedConfig):
    """
    Args:
        feature_size: width of the tower's features (`dim`).
        hidden_size: width of the language model's embeddings (`hidden`).
        feature_length: features per frame, or None where they differ.
        num_frames: frames per item, or None where they differ.
        num_tokens: tokens per item; None for an aligner whose count follows the features (`count_tokens`).
        sum_neighbours: add the tokens of adjacent items, of all modalities with this setting, into the first item's place.
            The language model does not see the other places. It is for aligners with one token per item whose towers
            share one embedding space; `num_tokens` is 1, or None with one feature.
        shares: name of a submodule -> modality whose aligner lends it. The module is then trained and saved once. It is for
            modalities that share a network but have some layers of their own.
    """

    # The wrapper's FSDP plan is the language model's; an aligner has no `layers.*` of its own to add to it.
    base_model_fsdp_plan = {}

    feature_size: int = 768
    hidden_size: int = 768
    feature_length: int | None = None
    num_frames: int | None = 1
    num_tokens: int | None = None
    initializer_range: float = 0.02
    sum_neighbours: bool = False
    shares: dict | None = None

    # Settings of some aligners only: their configs make fields of them.
    per_frame = False  # `num_tokens` for each frame
    hidden_act = "gelu"

    def __post_init__(self, **kwargs):
        kinds = [kind for kind in reversed(type(self).__mro__) if issubclass(kind, AlignerConfig)]
        hints = {name: hint for kind in kinds for name, hint in get_annotations(kind, eval_str=True).items()}
        values = {name: getattr(self, name) for name in hints.keys() & self.__dict__.keys()}
        check_fields(self.model_type, values, hints, {**dict.fromkeys(hints, 0), **_LEAST})
        super().__post_init__(**kwargs)
        if (self.num_tokens or 0) > _MOST_TOKENS:
            raise ConfigError(
                f"`{self.model_type}.num_tokens` is {self.num_tokens}, more than {_MOST_TOKENS} for one item."
            )
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act {self.hidden_act!r} is not one of {', '.join(ACT2FN)}.")

    def count_tokens(self, frames: int, length: int) -> int:
        """Tokens for one item of `frames` x `length` features."""
        if self.num_tokens is None:
            return frames * length
        return self.num_tokens * (frames if self.per_frame else 1)

    @property
    def reads(self) -> str:
        """What the aligner reads by itself, where frames differ: each "feature", each "frame", or the whole "item"."""
        return "frame" if self.num_tokens is None else "item"

    @property
    def gives_equal_counts(self) -> bool:
        """Whether all items have as many tokens, whatever their frames and features."""
        return self.reads == "item" and self.num_tokens is not None and not self.per_frame

    def count_item_tokens(self, lengths: Sequence[int]) -> int:
        """Tokens for one item whose frames have so many features each.

        The only place where a token count is decided: processor, collator, model check and serving all ask here.
        """
        if len(lengths) == 1 or len(set(lengths)) == 1:  # lengths that are traced cannot be put in a set
            return self.count_tokens(len(lengths), lengths[0])
        if self.reads == "item":
            return self.count_tokens(*(1, sum(lengths)) if self.num_tokens is None else (len(lengths), max(lengths)))
        return sum(self.count_tokens(1, length) for length in lengths)


class Aligner(PartModel):
    """Base class. Subclasses implement `forward(features, mask) -> (items, tokens, hidden)`.

    Attributes:
        reads_token_embeddings: whether `forward` is also given `token_embeddings`, the language model's input embeddings
            `(vocabulary, hidden)` with the dtype and on the device of `features`. Rows of placeholders are among them,
            the last ones as a rule; gradients reach the table. It is for aligners that express features by words.
    """

    config: AlignerConfig
    main_input_name = "features"
    reads_token_embeddings = False

    def forward(
        self, features: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            features: `(items, frames, length, dim)` floating point, in the aligner's dtype.
            mask: `(items, frames, length)` bool, True where a feature is real; None when all are.

        Returns:
            `(items, tokens, hidden)`; rows beyond an item's own `count_tokens` are not meaningful. An aligner that finds
            by the features themselves how many tokens an item needs (it cuts a signal into units) also returns
            `(items, tokens)` bool, True for those: each item has places for all of them, and the language model does
            not see the others, now or in later turns.
        """
        raise NotImplementedError


def register_aligner(name: str, *, exist_ok: bool = False):
    """Class decorator: makes an aligner known by `name`, and its config to the Auto classes: that of the class's
    annotation (`config: MyConfig`), with `model_type = f"{name}_aligner"`."""

    def decorate(cls: type[Aligner]) -> type[Aligner]:
        config_class = config_class_of(cls)
        if not issubclass(config_class, AlignerConfig) or config_class.model_type != f"{name}_aligner":
            raise TypeError(f'{config_class.__name__} must be an AlignerConfig with model_type = "{name}_aligner".')
        ALIGNERS.register(name, cls, exist_ok=exist_ok)
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        AutoModel.register(config_class, cls, exist_ok=True)
        return cls

    return decorate


def pool_to_tokens(features: torch.Tensor, mask: torch.Tensor | None, num_tokens: int) -> torch.Tensor:
    """Averages each item's features, in order, into nearly equal groups (adaptive average pooling):
    `(items, length, dim)` -> `(items, num_tokens, dim)`.

    Args:
        mask: `(items, length)` bool, True for the real features, or None where all are.
        num_tokens: groups per item; token `j` averages features `floor(j*n/k)` to `ceil((j+1)*n/k)` of the item's n.
    """
    if mask is None:
        return nn.functional.adaptive_avg_pool1d(features.transpose(1, 2), num_tokens).transpose(1, 2)
    real = mask.sum(-1).view(-1, 1, 1)
    token = torch.arange(num_tokens, device=features.device).view(1, -1, 1)
    start = token * real // num_tokens
    end = -(-(token + 1) * real // num_tokens)
    place = mask.cumsum(-1)[:, None] - 1  # of a feature among the real ones
    weights = ((place >= start) & (place < end) & mask[:, None]).to(features.dtype)
    return (weights / weights.sum(-1, keepdim=True).clamp(min=1)) @ features
