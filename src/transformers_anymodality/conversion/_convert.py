"""Converting a release: compose its parts, stream its tensors into them, write a card.

The model is built without data, because names and shapes suffice to place each tensor. So memory holds one shard of the
output, and the language model if one was chosen; never two copies of anything.
"""

import math
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tqdm.auto import tqdm
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..compose.compose import compose
from ..hub import Licences, write_card
from ..model.checkpoint import source_of
from ..model.modeling import AnyModalityForCausalLM
from ..towers import weightless
from ..utils.files import check_new, write_json
from ._base import CONVERSIONS, Options, Plan, Rule, find_tokenizer
from ._release import Release, Tensors


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
) -> "Report":
    """Writes a checkpoint that the Auto classes load.

    Args:
        system: name of a registered conversion.
        source, output: the folder with the released files, and the one to be made.
        light: refer to the chosen language model on the Hub instead of storing it.
        dtype: of all weights; each as it is in the release if left out.
        max_shard_size: bytes per file, and about what is in memory at a time.
        options: of `Options`.

    Raises:
        ValueError: tensors without a place, or parameters without a tensor; nothing is written then.
        FileNotFoundError, FileExistsError: missing source, existing output.
    """
    conversion, output = CONVERSIONS[system], Path(output)
    check_new(output)
    release, chosen = Release(source), Options(**options)
    if light and chosen.language_model is None:
        raise ValueError("A light checkpoint refers to a language model on the Hub: name one by --language-model.")
    plan = conversion.plan(release, chosen)
    report = Report(system, output, notes=list(plan.notes))
    partial = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        model, given, beside = _built(plan, release, chosen, report)
        filling = _Filling(model, report, None if dtype is None else getattr(torch, dtype))
        report.parameters = _write_weights(filling.tensors(plan.weights, given), partial, max_shard_size)
        model.config.architectures = [type(model).__name__]
        for part in (model.config, *beside):
            part.save_pretrained(partial)
        if plan.adapter is not None:
            _write_adapter(*plan.adapter, partial / "adapter", report)
        if light:
            _make_light(partial, chosen)
        report.write_card(partial, plan.licence)
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(output, ignore_errors=True)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return report


@dataclass
class Report:
    """What a conversion did; `str()` of it is for people.

    Args:
        output: folder of the checkpoint.
        parameters: numbers in the checkpoint.
        used: tensors of the release that are in it, by name.
        unused: tensors of the release that are not, each with the reason.
        notes: what else its users should know.
    """

    system: str
    output: Path
    parameters: int = 0
    used: set[str] = field(default_factory=set)
    unused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.output}: {self.parameters:,} parameters from {len(self.used):,} tensors of {self.system}."]
        if self.unused:
            lines.append(f"{len(self.unused):,} tensors were not used:")
            lines += [f"  {count:>5}  {name}{more}: {reason}" for count, name, more, reason in self._reasons()]
        return "\n".join([*lines, *self.notes])

    def write_card(self, folder: Path, licence: str) -> None:
        """The card of any checkpoint, which is now in `folder`, with the tensors that were not used."""
        rows = [f"| {count} | `{name}`{more} | {reason} |" for count, name, more, reason in self._reasons()]
        table = "\n".join(["| tensors | | why |", "|---|---|---|", *rows])
        write_card(
            folder,
            name=self.output.name,
            licences=Licences(licence, notes=["The weights keep the licence of the release."]),
            tags=[self.system],
            summary=f"Converted from the release of {self.system} by `anymodality convert {self.system}`: "
            f"{self.parameters:,} parameters from {len(self.used):,} tensors.",
            sections={"Tensors of the release that are not used": table} if rows else {},
            limits=self.notes,
            origin="the release",
        )

    def _reasons(self) -> list[tuple[int, str, str, str]]:
        """Of the unused tensors, for each reason: how many, the first one's name, whether there are more, the reason."""
        reasons: dict[str, list[str]] = defaultdict(list)
        for name, reason in self.unused.items():
            reasons[reason].append(name)
        return [(len(names), names[0], ", ..." * (len(names) > 1), why) for why, names in reasons.items()]


# --- composing -----------------------------------------------------------------------------------------------------


def _built(
    plan: Plan, release: Release, options: Options, report: Report
) -> tuple[PreTrainedModel, dict[str, torch.Tensor], list[Any]]:
    """The model without data; a chosen language model's weights; and what else is saved: processors, settings."""
    if plan.compose is None:
        return weightless(plan.tower), {}, [] if plan.processor is None else [plan.processor]
    arguments = dict(plan.compose)
    language, tokenizer = arguments["language_model"], arguments.pop("tokenizer", None)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        tokenizer = find_tokenizer(release, options, tokenizer)
    stands_in = tokenizer is None
    if stands_in:
        report.notes.append("No tokenizer was found, so no processor was written: name a tokenizer by --tokenizer.")
        config = AutoConfig.from_pretrained(language) if isinstance(language, str) else language
        tokenizer = _numbered_tokenizer(config.get_text_config().vocab_size)
    if isinstance(language, str):
        arguments["language_model"] = AutoModelForCausalLM.from_pretrained(language)
    with torch.device("meta"):
        model, processor = compose(**arguments, tokenizer=tokenizer)
    loaded = model.language_model.state_dict() if isinstance(language, str) else {}
    given = {f"language_model.{name}": tensor for name, tensor in loaded.items()}
    model.to("meta")  # so that each is let go of as it is written
    return model, given, [*([] if stands_in else [processor]), model.generation_config]


def _numbered_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Stands for a tokenizer of `size` tokens, so that placeholders get the ids behind."""
    vocabulary = {f"token{i}": i for i in range(size)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary, "token0")), eos_token="token2")


# --- filling -------------------------------------------------------------------------------------------------------


class _Filling:
    """Brings tensors to their places in a model without data, and knows which are left."""

    def __init__(self, model: PreTrainedModel, report: Report, dtype: torch.dtype | None):
        self.config, self.report, self.dtype = model.config, report, dtype
        self.shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        self.tied = dict(model.all_tied_weights_keys)
        self.growing = _growing(model)
        modalities = getattr(model.config, "modalities", None) or {}
        self.unread = tuple(f"{name}_tower.{part}." for name, one in modalities.items() for part in one.unread)
        self.filled: set[str] = set()

    def tensors(
        self, weights: list[tuple[Tensors, list[Rule]]], given: dict[str, torch.Tensor]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """The model's own, one after the other: those `given`, which is emptied, and what becomes of the release's."""
        first = ((name, given.pop(name)) for name in list(given))
        ours = chain(first, *(_apply_rules(tensors, rules, self.report) for tensors, rules in weights))
        for name, tensor in tqdm(ours, total=len(self.shapes), desc="tensors", unit=""):
            if name not in self.shapes:
                self._pass_over(name)
                continue
            tensor = self._fitted(name, tensor)
            if self.tied.get(name) in self.filled:
                continue  # written already, by the other name
            if name in self.filled:
                raise ValueError(f"Two tensors of the release go to {name}.")
            self.filled.add(name)
            yield name, tensor
        alike = set(self.tied) | {name for target, name in self.tied.items() if target in self.filled}
        if empty := sorted(set(self.shapes) - self.filled - alike):
            raise ValueError(
                f"{len(empty)} parameters have no weights in the release: {_some(empty)}. Nothing was written."
            )

    def _pass_over(self, name: str) -> None:
        if not f"{name}.".startswith(self.unread):
            raise ValueError(f"A rule of this conversion has the target {name!r}, which is not in the model.")
        self.report.unused[name] = _UNREAD

    def _fitted(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        shape = self.shapes[name]
        if name in self.growing and tensor.shape[0] < shape[0]:
            mean = tensor.float().mean(0, keepdim=True).to(tensor.dtype)
            tensor = torch.cat([tensor, mean.expand(shape[0] - len(tensor), *mean.shape[1:])])
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)} in the release, but {shape} in the model. If you chose another "
                "language model, take one of the width that the release was trained for. Otherwise, state the "
                "sizes in the release's config.json."
            )
        if self.dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(self.dtype)
        if name in self.growing:
            self.config.dtype = tensor.dtype
        return tensor


def _growing(model: PreTrainedModel) -> set[str]:
    """Names of the tables with a row per token."""
    if not isinstance(model, AnyModalityForCausalLM):
        return set()
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    tables = [getattr(module, key, None) for module in modules for key in ("weight", "bias")]
    own = {id(table) for table in tables if table is not None}
    return {name for name, p in model.named_parameters(remove_duplicate=False) if id(p) in own}


def _apply_rules(tensors: Tensors, rules: Iterable[Rule], report: Report) -> Iterator[tuple[str, torch.Tensor]]:
    """Our names and tensors, one after the other; only one tensor of the release is in memory.

    Raises:
        ValueError: a tensor that no rule speaks of, or one that a rule needs is missing; both before anything is given.
    """
    rules = [(re.compile(rule.source), rule) for rule in rules]
    chosen: list[tuple[str, re.Match, Rule]] = []
    strange = []
    for name in tensors:
        found = next(((match, rule) for pattern, rule in rules if (match := pattern.fullmatch(name))), None)
        if found is None:
            strange.append(name)
        else:
            chosen.append((name, *found))
    helpers = {match.expand(name) for _, match, rule in chosen for name in rule.also}
    if missing := sorted(helpers - set(tensors)):
        raise ValueError(f"The release lacks {len(missing)} tensors that other tensors need: {_some(missing)}.")
    if strange := [name for name in strange if name not in helpers]:
        raise ValueError(
            f"{len(strange)} tensors of {tensors.files[0].name} have no place in this system: {_some(strange)}. "
            "Nothing was written. Is it another release?"
        )
    for name, match, rule in chosen:
        if rule.target is None:
            if name not in helpers:
                report.unused[name] = rule.reason
            continue
        report.used |= {name, *(others := [match.expand(other) for other in rule.also])}
        value = tensors[name]
        if rule.change is not None:
            value = rule.change(value, *(tensors[other] for other in others))
        if isinstance(rule.target, str):
            yield match.expand(rule.target), value
        else:
            yield from zip((match.expand(target) for target in rule.target), value, strict=True)


def _some(names: list[str], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


# --- writing -------------------------------------------------------------------------------------------------------


def _shards(tensors: Iterable[tuple[str, torch.Tensor]], shard_bytes: float) -> Iterator[dict[str, torch.Tensor]]:
    """As many tensors at a time as a file may hold; each dict is emptied for the next, so that one alone is in memory."""
    shard, size = {}, 0
    for name, tensor in tensors:
        tensor = tensor.detach().contiguous()
        if shard and size + tensor.nbytes > shard_bytes:
            yield shard
            shard.clear()
            size = 0
        # A slice of a larger tensor would keep all of it.
        shard[name] = tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor
        size += tensor.nbytes
    yield shard


def _write_weights(tensors: Iterable[tuple[str, torch.Tensor]], folder: Path, shard_bytes: int) -> int:
    """Writes tensors in shards, and an index if there are several; returns how many numbers were written."""
    files, names, parameters, total = [], {}, 0, 0
    for shard in _shards(tensors, shard_bytes):
        files.append(folder / f"shard-{len(files)}")
        save_file(shard, files[-1], metadata={"format": "pt"})
        names |= dict.fromkeys(shard, len(files))
        parameters += sum(tensor.numel() for tensor in shard.values())
        total += sum(tensor.nbytes for tensor in shard.values())
    if len(files) == 1:
        files[0].rename(folder / SAFE_WEIGHTS_NAME)
        return parameters
    stem, suffix = SAFE_WEIGHTS_NAME.rsplit(".", 1)
    ends = {number: f"{stem}-{number:05d}-of-{len(files):05d}.{suffix}" for number in range(1, len(files) + 1)}
    for file, end in zip(files, ends.values(), strict=True):
        file.rename(folder / end)
    where = {name: ends[number] for name, number in sorted(names.items())}
    write_json(folder / SAFE_WEIGHTS_INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": where})
    return parameters


def _write_adapter(
    settings: dict[str, Any], weights: list[tuple[Tensors, list[Rule]]], folder: Path, report: Report
) -> None:
    from peft import LoraConfig

    folder.mkdir()
    LoraConfig(**settings).save_pretrained(folder)
    ours = chain.from_iterable(_apply_rules(tensors, rules, report) for tensors, rules in weights)
    save_file(next(_shards(ours, math.inf)), folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _make_light(folder: Path, options: Options) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.part_sources = {"language_model": {**source_of(options.language_model), "dtype": None, "select_layer": None}}
    for file in folder.glob("model*.safetensors*"):
        file.unlink()
    model.save_pretrained(folder, light=True)
