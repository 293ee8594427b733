"""What a converter says: where each tensor of a release goes, and what is composed for them to go into."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..utils.registry import LazyRegistry
from ._release import Release, Tensors


@dataclass(frozen=True)
class Options:
    """What a user may ask of a conversion.

    Args:
        language_model: Hub id or path of another language model than the release's.
        tokenizer: Hub id or path; found with the language model or in the release if left out.
        merge: merge adapters of the release into its language model.
        faithful: reproduce the release's known bugs.
    """

    language_model: str | None = None
    tokenizer: str | None = None
    merge: bool = False
    faithful: bool = False


@dataclass(frozen=True)
class Rule:
    """Where tensors of a release go.

    Args:
        source: regular expression for the whole of a tensor's name.
        target: its name in ours, with groups as `\\1`; several if `change` splits it; None if it is not used.
        change: what becomes of the tensor (and of those of `also`); a tuple for several targets.
        also: further tensors of the release that `change` is given, by name, with groups as `\\1`.
        reason: why it is not used.
    """

    source: str
    target: str | tuple[str, ...] | None = None
    change: Callable[..., Any] | None = None
    also: tuple[str, ...] = ()
    reason: str = ""

    def __post_init__(self):
        if self.target is None and not self.reason:
            raise ValueError(f"The rule for {self.source!r} has neither a target nor a reason: give one of them.")


@dataclass
class Plan:
    """What a release becomes.

    Args:
        compose: arguments of `compose`, parts being configs; the language model a Hub id or path if the user chose one.
        tower: config of the tower or aligner alone, for releases that hold nothing else; instead of `compose`.
        processor: of that tower, to be saved beside it.
        weights: files and the rules for them; names of ours begin with the part's (`image_tower.`, `language_model.`).
        adapter: a `LoraConfig`'s fields, for a release with LoRA weights that stay an adapter, and their files and rules.
        licence: of the weights; SPDX or Hugging Face's name for it.
        notes: for the model card.
    """

    compose: dict[str, Any] | None = None
    tower: PreTrainedConfig | None = None
    processor: Any = None
    weights: list[tuple[Tensors, list[Rule]]] = field(default_factory=list)
    adapter: tuple[dict[str, Any], list[tuple[Tensors, list[Rule]]]] | None = None
    licence: str = "other"
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Conversion:
    """How one system's releases are converted; `help` is one line about the files that are read."""

    plan: Callable[[Release, Options], Plan]
    help: str


CONVERSIONS: LazyRegistry[Conversion] = LazyRegistry("conversion")


def register_conversion(name: str, *, help: str):
    """Function decorator: makes `anymodality convert name` call it for the plan."""

    def decorate(plan: Callable[[Release, Options], Plan]) -> Callable[[Release, Options], Plan]:
        CONVERSIONS.register(name, Conversion(plan, help))
        return plan

    return decorate


def find_tokenizer(release: Release, options: Options, given: str | None = None) -> PreTrainedTokenizerBase | None:
    """The one that the user named, or else `given`, or that of the chosen language model, or the release's, if any.

    For plans, too, that add tokens to it: a tokenizer itself in `Plan.compose` is taken as it is.
    """
    if place := options.tokenizer or given or options.language_model:
        return AutoTokenizer.from_pretrained(place)
    for folder in (release.folder, *sorted(path for path in release.folder.glob("*") if path.is_dir())):
        files = {path.name for path in folder.glob("tokenizer*")}
        if "tokenizer_config.json" in files or "tokenizer.model" in files:
            return AutoTokenizer.from_pretrained(folder)
        if "tokenizer.json" in files:
            return _bare_tokenizer(folder / "tokenizer.json")
    return None


def _bare_tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """A tokenizer of which nothing but its `tokenizer.json` was released."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file))
    vocabulary = tokenizer.get_vocab()
    usual = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer.add_special_tokens({role: token for role, token in usual.items() if token in vocabulary})
    return tokenizer
