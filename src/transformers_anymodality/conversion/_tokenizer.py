"""The tokenizer of a release, wherever it is."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ._base import Options
from ._release import Release


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


def numbered_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Stands for a tokenizer of `size` tokens, so that placeholders get the ids behind."""
    vocabulary = {f"token{i}": i for i in range(size)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary, "token0")), eos_token="token2")
