"""Converting a release: compose its parts, stream its tensors into them, write a card.

What a tensor goes into is known by name and shape alone (the target is built without data), so memory holds a shard of
the output and, while the towers are tried, the towers; never two copies of anything.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..compose.compose import compose
from ..model.light_checkpoint import source_of
from ..model.modeling import AnyModalityForCausalLM
from ..towers import build_tower
from ._base import CONVERSIONS, Applied, Options, Plan, Rule, apply_rules
from ._release import Release, Tensors
from ._report import Report
from ._tokenizer import find_tokenizer, numbered_tokenizer
from ._writer import ShardWriter


_UNREAD = "its features do not depend on it, so it is not built"


def convert(
    system: str,
    source: str | Path,
    output: str | Path,
    *,
    light: bool = False,
    dtype: str | None = None,
    max_shard_size: int = 10**9,
    **options: Any,
) -> Report:
    """Writes a checkpoint that the Auto classes load.

    Args:
        system: name of a registered conversion.
        source: folder with the released files.
        output: folder to be made.
        light: refer to the chosen language model on the Hub instead of storing it.
        dtype: of all weights; each as it is in the release if left out.
        max_shard_size: bytes per file, and about what is in memory at a time.
        options: of `Options`.

    Raises:
        ValueError: tensors without a place, or parameters without a tensor; nothing is written then.
        FileNotFoundError, FileExistsError: missing source, existing output.
    """
    conversion, output = CONVERSIONS[system], Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} exists already; choose another --output, or remove it.")
    release, chosen = Release(source), Options(**options)
    if light and chosen.language_model is None:
        raise ValueError("A light checkpoint refers to a language model on the Hub: name one by --language-model.")
    plan = conversion.plan(release, chosen)
    report = Report(system, output, notes=list(plan.notes))
    partial = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write(
            plan, release, chosen, partial, report, max_shard_size, None if dtype is None else getattr(torch, dtype)
        )
        if light:
            _make_light(partial, chosen)
        report.write_card(partial, plan.licence)
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(output, ignore_errors=True)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return report


def _write(
    plan: Plan,
    release: Release,
    options: Options,
    folder: Path,
    report: Report,
    shard_bytes: int,
    dtype: torch.dtype | None,
) -> None:
    given: dict[str, torch.Tensor] = {}
    if plan.compose is None:
        config, skeleton = plan.tower, _weightless_tower(plan.tower)
        saved = [plan.processor] if plan.processor is not None else []
    else:
        model, saved = _composed(plan, release, options, report)
        config = model.config
        with torch.device("meta"):
            skeleton = AnyModalityForCausalLM(config)
        if isinstance(plan.compose["language_model"], str):
            given = {f"language_model.{k}": v for k, v in model.language_model.state_dict().items()}
        saved += [model.generation_config]
        del model
    writer, applied = ShardWriter(folder, shard_bytes), Applied()
    _Filling(skeleton, config, writer, applied, dtype).fill(plan.weights, given)
    writer.close()
    if plan.adapter is not None:
        _write_adapter(plan.adapter, folder / "adapter", applied, shard_bytes)
    config.architectures = [type(skeleton).__name__]
    for part in (config, *saved):
        part.save_pretrained(folder)
    report.parameters, report.used, report.unused = writer.parameters, len(applied.used), applied.unused


def _weightless_tower(config: PreTrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        return build_tower(config)


# --- composing -----------------------------------------------------------------------------------------------------


def _composed(plan: Plan, release: Release, options: Options, report: Report) -> tuple[AnyModalityForCausalLM, list]:
    """The composite, with a language model of its full config; and its processor if there is a tokenizer."""
    arguments = dict(plan.compose)
    language, tokenizer = arguments["language_model"], arguments.pop("tokenizer", None)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        tokenizer = find_tokenizer(release, options, tokenizer)
    stands_in = tokenizer is None
    if stands_in:
        report.notes.append(
            "No tokenizer was found, so there is no processor: name one by --tokenizer to write it, too."
        )
        config = AutoConfig.from_pretrained(language) if isinstance(language, str) else language
        tokenizer = numbered_tokenizer(config.get_text_config().vocab_size)
    if isinstance(language, str):
        model, processor = compose(**arguments, tokenizer=tokenizer)
        return model, [] if stands_in else [processor]
    few = _with_few_layers(language)
    before = few.to_dict()
    model, processor = compose(**{**arguments, "language_model": few}, tokenizer=tokenizer)
    # What growing changed in the small one (the size of the vocabulary) holds for the whole.
    whole = copy.deepcopy(language)
    for key, value in model.config.text_config.to_dict().items():
        if before.get(key) != value:
            setattr(whole, key, value)
    model.config.text_config = whole
    return model, [] if stands_in else [processor]


def _with_few_layers(config: PreTrainedConfig) -> PreTrainedConfig:
    """The language model, small enough to be tried; its layers are all alike."""
    few = copy.deepcopy(config)
    few.num_hidden_layers = 1
    if isinstance(getattr(few, "layer_types", None), list):
        few.layer_types = few.layer_types[:1]
    return few


# --- filling -------------------------------------------------------------------------------------------------------


class _Filling:
    """Puts tensors into the places of a model without data, and knows which are left."""

    def __init__(
        self,
        skeleton: PreTrainedModel,
        config: PreTrainedConfig,
        writer: ShardWriter,
        applied: Applied,
        dtype: torch.dtype | None,
    ):
        self.shapes = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
        self.tied = dict(skeleton.all_tied_weights_keys)
        self.growing = _growing(skeleton)
        modalities = getattr(config, "modalities", None) or {}
        self.unread = tuple(f"{name}_tower.{part}" for name, one in modalities.items() for part in one.unread)
        self.config, self.writer, self.applied, self.dtype = config, writer, applied, dtype
        self.filled: set[str] = set()

    def fill(self, weights: list[tuple[Tensors, list[Rule]]], given: dict[str, torch.Tensor]) -> None:
        count = sum(len(tensors) for tensors, _ in weights)
        with tqdm(total=count + len(given), desc="tensors", unit="") as bar:
            for name in list(given):
                self._put(name, given.pop(name))
                bar.update()
            for tensors, rules in weights:
                seen = 0
                for name, tensor in apply_rules(tensors, rules, self.applied):
                    self._put(name, tensor)
                    bar.update()
                    seen += 1
                bar.update(max(0, len(tensors) - seen))
        alike = set(self.tied) | {name for target, name in self.tied.items() if target in self.filled}
        if empty := sorted(set(self.shapes) - self.filled - alike):
            shown = ", ".join(empty[:6]) + (", ..." if len(empty) > 6 else "")
            raise ValueError(f"{len(empty)} parameters have no weights in the release: {shown}. Nothing was written.")

    def _put(self, name: str, tensor: torch.Tensor) -> None:
        if name not in self.shapes:
            if not f"{name}.".startswith(tuple(f"{part}." for part in self.unread)):
                raise ValueError(f"A rule of this conversion writes {name!r}, which the model does not have.")
            self.applied.unused[name] = _UNREAD
            return
        shape = self.shapes[name]
        if name in self.growing and tensor.shape[0] < shape[0]:
            mean = tensor.float().mean(0, keepdim=True).to(tensor.dtype)
            tensor = torch.cat([tensor, mean.expand(shape[0] - len(tensor), *mean.shape[1:])])
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)} in the release, but {shape} in the model. If you chose another "
                "language model, take one of the width that the release was trained for; else say the sizes in the "
                "release's config.json."
            )
        if self.dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(self.dtype)
        if name in self.growing:
            self.config.dtype = tensor.dtype
        source = self.tied.get(name)
        if source is not None and source in self.filled:
            return  # written already, by the other name
        if name in self.filled:
            raise ValueError(f"Two tensors of the release go to {name}.")
        self.filled.add(name)
        self.writer.add(name, tensor)


def _growing(skeleton: PreTrainedModel) -> set[str]:
    """Names of the tables with a row per token."""
    if not isinstance(skeleton, AnyModalityForCausalLM):
        return set()
    modules = (skeleton.get_input_embeddings(), skeleton.get_output_embeddings())
    tables = [getattr(module, key, None) for module in modules for key in ("weight", "bias")]
    own = {id(table) for table in tables if table is not None}
    return {name for name, p in skeleton.named_parameters(remove_duplicate=False) if id(p) in own}


def _write_adapter(adapter: tuple[dict, list], folder: Path, applied: Applied, shard_bytes: int) -> None:
    from peft import LoraConfig

    settings, weights = adapter
    folder.mkdir()
    LoraConfig(**settings).save_pretrained(folder)
    writer = ShardWriter(folder, shard_bytes * 1000)
    for name, tensor in _all(weights, applied):
        writer.add(name, tensor)
    writer.close()
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")


def _all(weights: list[tuple[Tensors, list[Rule]]], applied: Applied) -> Iterator[tuple[str, torch.Tensor]]:
    for tensors, rules in weights:
        yield from apply_rules(tensors, rules, applied)


def _make_light(folder: Path, options: Options) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.part_sources = {"language_model": {**source_of(options.language_model), "dtype": None, "select_layer": None}}
    for file in folder.glob("model*.safetensors*"):
        file.unlink()
    model.save_pretrained(folder, light=True)
