"""Loading that never fills a gap with random weights, and saving, in full or light."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel, initialization

from ..utils.hub import hub_kwargs
from ..utils.upstream import is_initialized, set_initialized, set_name_or_path, without_deepspeed
from . import light_checkpoint
from .configuration import AnyModalityConfig
from .quantization import reversible_conversions, skip_towers_and_aligners


class CheckpointMixin(PreTrainedModel):
    """`from_pretrained` and `save_pretrained` of the composites."""

    config: AnyModalityConfig
    config_class = AnyModalityConfig
    part_sources: dict[str, dict[str, Any] | None] = {}  # part -> where it was loaded from; set by `compose`

    @property
    def is_quantized(self) -> bool:
        """Always False: what is quantised is the language model, `model.language_model`, and with it what is frozen.

        The Trainer refuses models that are quantised and have no adapter of PEFT's; here aligners can learn beside.
        """
        return False

    @is_quantized.setter
    def is_quantized(self, value: bool) -> None:
        """Transformers sets it while it loads."""

    @classmethod
    @without_deepspeed()
    def from_pretrained(cls, pretrained_model_name_or_path=None, *args, output_loading_info: bool = False, **kwargs):
        """As `PreTrainedModel.from_pretrained`, for full and light checkpoints.

        Quantisation configs that name nothing to leave out leave towers, aligners and the head in full precision.

        Raises:
            ValueError: the checkpoint lacks weights, has some that the model has not, or some of another shape
                (the last unless `ignore_mismatched_sizes=True`).
        """
        source = pretrained_model_name_or_path
        kwargs = cls._with_config(source, {"use_safetensors": True, **kwargs})
        # The stock error for another shape does not name the weight: ours below does.
        mismatch_allowed, kwargs["ignore_mismatched_sizes"] = kwargs.get("ignore_mismatched_sizes", False), True
        config = kwargs["config"]
        kwargs = cls._loading_kwargs(config, kwargs)
        if kwargs.get("quantization_config") is not None:
            kwargs["quantization_config"] = skip_towers_and_aligners(kwargs["quantization_config"], config)
        place = source
        if config.references:
            place, kwargs["state_dict"] = None, light_checkpoint.assemble(source, config, **hub_kwargs(kwargs))
        loaded: Any = super().from_pretrained(place, *args, output_loading_info=True, **kwargs)
        model, info = loaded
        check_loading_info(model, info, mismatch_allowed, source)
        if config.references:
            model._restore_light(source, config, hub_kwargs(kwargs))
        return (model, info) if output_loading_info else model

    @classmethod
    def _with_config(cls, source: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        config = kwargs.get("config")
        if isinstance(config, AnyModalityConfig):
            return kwargs
        own = {
            key: kwargs.pop(key) for key in list(kwargs) if key.endswith("_config") and isinstance(kwargs[key], dict)
        }
        quantization = own.pop("quantization_config", None)
        config = AnyModalityConfig.from_pretrained(config or source, **own, **hub_kwargs(kwargs))
        return {**kwargs, "config": config, **({} if quantization is None else {"quantization_config": quantization})}

    @torch.no_grad()
    @initialization.guard_torch_init_functions()
    def initialize_weights(self) -> None:
        """As usual, and the modules without weights of their own in stock parts.

        Below a class from outside Transformers, which this one is, those are passed over; but some fill buffers of the
        modules inside them that are in no checkpoint.
        """
        waiting = list(_without_tensors(self, self))
        super().initialize_weights()
        for owner, module in waiting:
            set_initialized(module, False)  # passing over marks them, too
            owner._initialize_weights(module)

    @classmethod
    def _loading_kwargs(cls, config: AnyModalityConfig, kwargs: dict[str, Any]) -> dict[str, Any]:
        """What the stock `from_pretrained` is called with."""
        return kwargs

    def _restore_light(self, source: Any, config: AnyModalityConfig, hub: dict[str, Any]) -> None:
        self.name_or_path = str(source)
        set_name_or_path(self.config, self.name_or_path)
        keys = ("id", "revision", "dtype", "select_layer")
        self.part_sources = {part: {key: ref[key] for key in keys} for part, ref in (config.references or {}).items()}
        try:
            self.generation_config = GenerationConfig.from_pretrained(source, **hub)
        except OSError:
            pass  # headless checkpoints have none

    def save_pretrained(self, save_directory, *args, light: bool = False, state_dict=None, **kwargs):
        """As `PreTrainedModel.save_pretrained`.

        Args:
            light: store only what differs from the parts' sources on the Hub, and refer to those for the rest. The
                sources are read again for the comparison.
        """
        references = self.config.references
        try:
            self.config.references = None
            if light:
                state_dict, self.config.references = light_checkpoint.split(
                    self.config, self.part_sources, state_dict or self.state_dict()
                )
                kwargs["save_original_format"] = False  # references are by our names
            with reversible_conversions(self):
                return super().save_pretrained(save_directory, *args, state_dict=state_dict, **kwargs)
        finally:
            self.config.references = references

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoModel") -> None:
        """Nothing: checkpoints name the installed package, and copying this file into them would break them."""


def _without_tensors(module: nn.Module, owner: PreTrainedModel) -> Iterator[tuple[PreTrainedModel, nn.Module]]:
    """Modules of stock models that have no tensors of their own and are not initialised, innermost first."""
    for child in module.children():
        yield from _without_tensors(child, child if isinstance(child, PreTrainedModel) else owner)
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    if not own and not is_initialized(module) and not owner.is_custom_code():
        yield owner, module


def check_loading_info(model: PreTrainedModel, info: dict[str, Any], mismatch_allowed: bool, source: Any) -> None:
    """Raises ValueError if the checkpoint and the model do not have the same weights."""
    mismatched = {key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"]}
    missing = set(info["missing_keys"]) - (mismatched if mismatch_allowed else set())
    problems = {
        "missing from the checkpoint": missing,
        "in the checkpoint, but not in the model": set(info["unexpected_keys"]),
        "of another shape": set() if mismatch_allowed else mismatched,
    }
    found = [f"{len(keys)} {what}: {_some(keys)}" for what, keys in problems.items() if keys]
    if found:
        raise ValueError(
            f"The weights in {source} do not fit {type(model).__name__}; " + "; ".join(found) + ". Nothing is filled "
            "with random weights: check that config and weights come from the same model."
        )


def _some(keys: set[str], limit: int = 5) -> str:
    return ", ".join(sorted(keys)[:limit]) + (", ..." if len(keys) > limit else "")
