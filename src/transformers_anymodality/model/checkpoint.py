"""Loading that never fills missing weights at random, and saving, in full or light.

In a light checkpoint, unchanged parts from the Hub are references, and only the rest is stored. `config.json` then has
`references`: part -> its source (id, revision), a hash over its tensors, and which of them grew by rows (token embeddings,
for placeholders). `from_pretrained` loads each reference, checks the hash and adds the stored tensors; the result is the
same as that of a full checkpoint.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, initialization
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file

from ..modalities import MODALITIES
from ..towers import load_tower
from ..utils.checked import ConfigError, check_fields, read_from
from ..utils.files import write_checksums
from ..utils.hub import FETCHING, gguf_arguments, hub_kwargs
from ..utils.tensors import tensors_hash
from ..utils.upstream import extract_commit_hash, is_initialized, set_initialized, without_deepspeed
from .configuration import AnyModalityConfig
from .quantization import keep_gradients, reversible_conversions, skip_towers_and_aligners
from .remote_code import RemoteCodeMixin
from .stored_weights import check_weights, some, stored_dtypes, weight_files


# The keys of a reference, see `_split`.
_REFERENCE = {
    **{"id": str, "revision": str | None, "dtype": str | None, "select_layer": int | None, "sha256": str},
    **{"tensors": int, "grown": list[str], "kept": list[str] | None},
}


class CheckpointMixin(PreTrainedModel):
    """`from_pretrained` and `save_pretrained` of the composites."""

    config: AnyModalityConfig
    config_class = AnyModalityConfig
    part_sources: dict[str, dict[str, Any] | None] = {}  # part -> where it was loaded from; set by `compose`
    register_for_auto_class = RemoteCodeMixin.register_for_auto_class

    @property
    def is_quantized(self) -> bool:
        """Always False: only the language model (`model.language_model`) is quantised, which freezes it.

        The Trainer refuses quantised models without an adapter of PEFT; here aligners can still learn.
        """
        return False

    @is_quantized.setter
    def is_quantized(self, value: bool) -> None:
        """Transformers sets it while it loads."""

    @classmethod
    @without_deepspeed()
    def from_pretrained(cls, pretrained_model_name_or_path=None, *args, output_loading_info: bool = False, **kwargs):
        """As `PreTrainedModel.from_pretrained`, for full and light checkpoints.

        Quantisation configs that do not name modules to skip leave towers, aligners and the head in full precision.

        Raises:
            ValueError: weights are missing, unexpected, or of another shape (unless `ignore_mismatched_sizes=True`); or
                they hold NaN, infinity, or another kind of number.
            ConfigError: the model in config.json cannot be built.
        """
        source = pretrained_model_name_or_path
        kwargs = cls._with_config(source, {"use_safetensors": True, **kwargs})
        # The stock error for another shape does not name the weight; ours below does.
        mismatch_allowed, kwargs["ignore_mismatched_sizes"] = kwargs.get("ignore_mismatched_sizes", False), True
        config = kwargs["config"]
        kwargs = cls._loading_kwargs(config, kwargs)
        if kwargs.get("quantization_config") is not None:
            kwargs["quantization_config"] = skip_towers_and_aligners(kwargs["quantization_config"], config)
        place = source
        with read_from(f"{source}"):
            # Variants have other file names; light checkpoints have no variants.
            other_names = kwargs.get("variant") and not config.references
            files = [] if other_names else weight_files(source, hub_kwargs(kwargs))
            stored = stored_dtypes(files)
            if config.references:
                place, kwargs["state_dict"] = None, _assemble(source, config, files, **hub_kwargs(kwargs))
            loaded: Any = super().from_pretrained(place, *args, output_loading_info=True, **kwargs)
            model, info = loaded
            check_loading_info(model, info, mismatch_allowed)
            check_weights(model, stored)
            model._check_placeholders()
        keep_gradients(model)
        if config.references:
            model._restore_light(source, config, hub_kwargs(kwargs))
        return (model, info) if output_loading_info else model

    def _check_placeholders(self) -> None:
        rows: Any = getattr(self.get_input_embeddings(), "num_embeddings", None)
        for name, modality in self.config.modalities.items():
            if rows is not None and modality.token_id >= rows:
                raise ConfigError(
                    f"`modalities.{name}.token_id` is {modality.token_id}, beyond the {rows} tokens of the language model."
                )

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
        """As usual, and also for modules without their own weights in stock parts.

        Transformers skips these below a class from another package, such as this one. But some of them fill buffers of
        inner modules that checkpoints do not hold.
        """
        waiting = list(_without_tensors(self, self))
        super().initialize_weights()
        for owner, module in waiting:
            set_initialized(module, False)  # skipped modules are marked, too
            owner._initialize_weights(module)

    @classmethod
    def _loading_kwargs(cls, config: AnyModalityConfig, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Keyword arguments for the stock `from_pretrained`."""
        return kwargs

    def _restore_light(self, source: Any, config: AnyModalityConfig, hub: dict[str, Any]) -> None:
        self.name_or_path = self.config.name_or_path = str(source)
        keys = ("id", "revision", "dtype", "select_layer")
        self.part_sources = {part: {key: ref[key] for key in keys} for part, ref in (config.references or {}).items()}
        try:
            self.generation_config = GenerationConfig.from_pretrained(source, **hub)
        except OSError:
            pass  # headless checkpoints do not have it

    def save_pretrained(
        self, save_directory, *args, light: bool = False, processor: Any = None, state_dict=None, **kwargs
    ):
        """As `PreTrainedModel.save_pretrained`.

        Args:
            processor: is saved with the model, which makes the folder a complete checkpoint.
            light: store only differences from the parts' sources on the Hub, and refer to these for the rest. The sources
                are read again for the comparison.

        Raises:
            ValueError: `push_to_hub=True`, which would upload the model without its processor.
        """
        if kwargs.get("push_to_hub"):
            raise ValueError(
                "`push_to_hub=True` would upload the model before its processor and checksums are saved. Save it without, "
                "then call model.push_to_hub(repo_id, processor=processor)."
            )
        references = self.config.references
        try:
            self.config.references = None
            if light:
                state_dict, self.config.references = _split(
                    self.config, self.part_sources, state_dict or self.state_dict()
                )
                kwargs["save_original_format"] = False  # references use our names
            with reversible_conversions(self):
                super().save_pretrained(save_directory, *args, state_dict=state_dict, **kwargs)
            if kwargs.get("is_main_process", True):
                write_checksums(save_directory)
                if processor is not None:
                    processor.save_pretrained(save_directory)
        finally:
            self.config.references = references


def _without_tensors(module: nn.Module, owner: PreTrainedModel) -> Iterator[tuple[PreTrainedModel, nn.Module]]:
    """Uninitialised modules of stock models without their own tensors, innermost first."""
    for child in module.children():
        yield from _without_tensors(child, child if isinstance(child, PreTrainedModel) else owner)
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    if not own and not is_initialized(module) and not owner.is_custom_code():
        yield owner, module


def check_loading_info(model: PreTrainedModel, info: dict[str, Any], mismatch_allowed: bool) -> None:
    """Raises ValueError if the checkpoint and the model do not have the same weights."""
    mismatched = {key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"]}
    missing = set(info["missing_keys"]) - (mismatched if mismatch_allowed else set())
    problems = {
        "missing from the checkpoint": missing,
        "in the checkpoint, but not in the model": set(info["unexpected_keys"]),
        "of another shape": set() if mismatch_allowed else mismatched,
    }
    found = [f"{len(keys)} {what}: {some(keys)}" for what, keys in problems.items() if keys]
    if found:
        raise ValueError(
            f"The weights do not fit {type(model).__name__}; " + "; ".join(found) + ". Nothing is filled "
            "with random weights: check that config and weights come from the same model."
        )


# --- light checkpoints -----------------------------------------------------------------------------------------------


def source_of(source: Any, revision: str | None = None, **load: Any) -> dict[str, Any] | None:
    """The source of a part, pinned to a commit: `{"id", "revision"}`; None for a part that was not loaded by name, and for a
    GGUF file, which is stored dequantised."""
    if not isinstance(source, (str, os.PathLike)) or gguf_arguments(source)[1]:
        return None
    source = os.fspath(source)
    file = cached_file(source, "config.json", revision=revision, **hub_kwargs(load))
    return {"id": source, "revision": extract_commit_hash(file, None) or revision}


def _split(
    config: Any, part_sources: Mapping[str, dict[str, Any] | None], state: dict[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, dict[str, Any]]]:
    """Splits the weights of a composite for a light checkpoint.

    Args:
        config: config of a composite.
        part_sources: the sources of its parts.
        state: its state dict.

    Returns:
        The tensors that differ from their reference (grown embeddings by their new rows), and the references.

    Raises:
        ValueError: no part of the model has a source.
    """
    sources = {part: source for part, source in part_sources.items() if source is not None}
    if not sources:
        raise ValueError(
            "A light checkpoint refers to parts on the Hub, but no part of this model came from the Hub. Compose it "
            "from Hub ids, or save it in full (light=False)."
        )
    stored, references = dict(state), {}
    for part, source in sources.items():
        reference = _load_reference(config, part, source)
        grown, kept = [], {}
        for name, tensor in reference.items():
            key = f"{part}.{name}"
            if key not in state:
                continue
            ours = state[key].to("cpu")
            if ours.dtype == tensor.dtype and torch.equal(ours[: len(tensor)] if ours.ndim else ours, tensor):
                kept[name] = tensor
                if ours.shape == tensor.shape:
                    del stored[key]
                else:
                    stored[key] = ours[len(tensor) :].clone()
                    grown.append(name)
        if kept:
            references[part] = {
                **source,
                "sha256": tensors_hash(sorted(kept.items())),
                "tensors": len(kept),
                "grown": sorted(grown),
            }
            references[part]["kept"] = None if len(kept) == len(reference) else sorted(kept)
    return stored, references


def _assemble(source: Any, config: Any, files: list[Path], **hub: Any) -> dict[str, torch.Tensor]:
    """The full state dict of a light checkpoint, whose stored weights are in `files`.

    Raises:
        OSError: a reference could not be loaded; the message names it and the part.
        ValueError: it has changed since the checkpoint was saved.
    """
    # If a file is missing, `cached_file` raises.
    files = files or [Path(str(cached_file(source, SAFE_WEIGHTS_NAME, **hub)))]
    stored = {name: tensor for file in files for name, tensor in load_file(file).items()}
    state: dict[str, torch.Tensor] = {}
    for part, reference in config.references.items():
        _check_reference(config, part, reference)
        tensors = _load_reference(config, part, reference, **hub_kwargs(hub, FETCHING))
        kept = reference["kept"] or list(tensors)
        missing = sorted(set(kept) - set(tensors))
        if missing or tensors_hash((name, tensors[name]) for name in sorted(kept)) != reference["sha256"]:
            raise ValueError(
                f"`{part}` of this light checkpoint refers to {_where(reference)}, which has changed since: its "
                f"weights hash differently{' or are missing: ' + ', '.join(missing[:3]) if missing else ''}. Restore "
                "it, or ask for a full checkpoint."
            )
        for name in kept:
            key = f"{part}.{name}"
            state[key] = torch.cat([tensors[name], stored.pop(key)]) if name in reference["grown"] else tensors[name]
    return {**state, **stored}


def _check_reference(config: Any, part: str, reference: dict[str, Any]) -> None:
    """Raises ConfigError for a reference that `_split` would not write."""
    where = f"references.{part}"
    if part not in config.part_names:
        raise ConfigError(
            f"`{where}` is for a part that the model does not have; it has {', '.join(config.part_names)}."
        )
    if reference.keys() != _REFERENCE.keys():
        raise ConfigError(
            f"`{where}` has {', '.join(sorted(reference)) or 'nothing'}; it must have {', '.join(_REFERENCE)}."
        )
    check_fields(where, reference, _REFERENCE, {"tensors": 1})
    if reference["kept"] == [] or (
        reference["dtype"]
        and not isinstance(getattr(torch, reference["dtype"].removeprefix("torch."), None), torch.dtype)
    ):
        raise ConfigError(f"`{where}` keeps no tensors, or names a dtype that torch does not have.")


def _load_reference(config: Any, part: str, reference: dict[str, Any], **hub: Any) -> dict[str, torch.Tensor]:
    load = {"revision": reference["revision"], "dtype": reference["dtype"], **hub}
    load = {key: value for key, value in load.items() if value is not None}
    try:
        if part == "language_model":
            return AutoModelForCausalLM.from_pretrained(reference["id"], **load).state_dict()
        modality = part.removesuffix("_tower")
        return load_tower(reference["id"], MODALITIES[modality].medium, reference["select_layer"], **load).state_dict()
    except OSError as error:
        raise OSError(
            f"`{part}` of this light checkpoint could not be loaded from {_where(reference)}: {error}. Log in, go online or "
            "download it, or ask for a full checkpoint."
        ) from error


def _where(reference: dict[str, Any]) -> str:
    return reference["id"] + (f" at revision {reference['revision']}" if reference["revision"] else "")
