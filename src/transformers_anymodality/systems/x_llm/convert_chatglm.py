"""ChatGLM-6B from its published files, as the language model of a release of X-LLM.

Its tokenizer was published as a SentencePiece file (`ice_text.model`) and code of its own around it: ids of image tokens,
which the model never used, come before the file's, and line ends, tabs and runs of spaces are symbols.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ...conversion import Options, Release, Rule, Tensors
from ...utils.upstream import generate_merges
from .chatglm import ChatGLMConfig


_CHATGLM = ("chatglm-6b", "chatglm_6b", "chatglm")  # names of its folder
_COUNTED = "computed from the config"
_OTHER = "another language model was chosen"
_WORD_TABLE = "transformer.word_embeddings.weight"
# Fields of its config that no shape shows.
_TOLD = ("num_attention_heads", "max_sequence_length", "layernorm_epsilon")
_TOLD += ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id", "gmask_token_id")
_NOTES = ["ChatGLM-6B's licence holds for the language model."]


@dataclass
class Language:
    """Language model for `compose`, rules for `opt_model` in the checkpoint, and files of its own."""

    source: Any
    rule: Rule
    weights: list[tuple[Tensors, list[Rule]]] = field(default_factory=list)
    tokenizer: Any = None
    notes: list[str] = field(default_factory=list)


def language_model(own: Tensors, folder: Release, options: Options) -> Language:
    """The user's choice, or the checkpoint's, or that of a folder of ChatGLM-6B beside it."""
    chosen, absent = options.language_model, Rule(r"opt_model\..*", reason=_OTHER)
    if chosen is not None and not _is_published(Path(chosen)):
        return Language(chosen, absent, notes=["The interfaces were not trained with this language model."])
    if chosen is None and f"opt_model.{_WORD_TABLE}" in own:
        config = chatglm_config(own, "opt_model.", folder.config.get("glm", {}))
        return Language(config, Rule(r"opt_model\.(.*)", r"language_model.\1"), notes=_NOTES)
    places = [Path(chosen)] if chosen is not None else [folder.folder / name for name in _CHATGLM]
    place = next((place for place in places if _is_published(place)), None)
    if place is None:
        raise ValueError(
            f"{own.files[0].name} holds no language model, and no folder {_CHATGLM[0]} with the published files is beside "
            "it. Give such a folder by --language-model, or another language model of the width that was trained for."
        )
    published = Release(place)
    tensors = published.open(".")
    rules = [Rule(r".*rotary_emb\.inv_freq", reason=_COUNTED), Rule(r"(.*)", r"language_model.\1")]
    config = chatglm_config(tensors, "", published.config)
    file, tokenizer = place / "ice_text.model", None
    if file.is_file() and options.tokenizer is None:
        tokenizer = chatglm_tokenizer(file, config.gmask_token_id)
    return Language(config, absent, [(tensors, rules)], tokenizer, _NOTES)


def _is_published(folder: Path) -> bool:
    """Whether it is a folder of ChatGLM-6B as published. Three later models have the same model type."""
    config = Release(folder).config if folder.is_dir() else {}
    return config.get("model_type") == "chatglm" and "inner_hidden_size" in config


def chatglm_config(tensors: Tensors, prefix: str, given: dict[str, Any]) -> ChatGLMConfig:
    """Sizes from the tensors, the rest from the config. Default: the published values."""
    rows, size = tensors.shape(f"{prefix}{_WORD_TABLE}")
    layers = f"{prefix}transformer.layers"
    sizes = {
        "vocab_size": rows,
        "hidden_size": size,
        "num_hidden_layers": tensors.count(f"{layers}.{{}}.input_layernorm.weight"),
        "intermediate_size": tensors.shape(f"{layers}.0.mlp.dense_h_to_4h.weight")[0],
        "num_attention_heads": max(1, size // 128),
    }
    return ChatGLMConfig(**sizes | {name: given[name] for name in _TOLD if name in given})


# --- the tokenizer ---------------------------------------------------------------------------------------------------


_LONGEST_BLANK = 80
_ROLES = {
    "bos_token": "<sop>",
    "eos_token": "<eop>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "mask_token": "[MASK]",
}
_USER_DEFINED = 4  # the type of a piece
_BPE = 2  # the type of the model


def chatglm_tokenizer(file: str | Path, gmask_token_id: int = 150001) -> PreTrainedTokenizerFast:
    """ChatGLM-6B's tokenizer, from its `ice_text.model`; raises ValueError for another kind of file.

    `gmask_token_id` is the id of `[gMASK]` in the model. Its distance from the file's own id is the number of image tokens.
    """
    pieces, trainer, normalizer = _read(Path(file))
    names = [name for name, _, _ in pieces]
    if missing := sorted({*_ROLES.values(), "[gMASK]"} - set(names)):
        raise ValueError(f"{file} is not a SentencePiece file of ChatGLM-6B: it lacks {', '.join(missing)}.")
    images = gmask_token_id - names.index("[gMASK]")
    symbols = [name for name, _, kind in pieces if kind == _USER_DEFINED]
    vocabulary = [(f"<|image_{i}|>", 0.0) for i in range(images)]
    vocabulary += [(name, 0.0 if name in symbols else score) for name, score, _ in pieces]
    backend = Tokenizer(_model(vocabulary, images, trainer))
    backend.normalizer = _normalizer(normalizer)
    # Symbols stay whole, even where pieces could spell them.
    longest_first = sorted(symbols, key=len, reverse=True)
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(map(re.escape, longest_first))), "isolated")
    backend.decoder = _decoder()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        extra_special_tokens=["[gMASK]"],
        padding_side="left",
        model_max_length=2048,
        **_ROLES,
    )


def _model(vocabulary: list[tuple[str, float]], images: int, trainer: dict[int, Any]) -> models.Model:
    unknown, fallback = trainer.get(40, 0), bool(trainer.get(35, 0))
    if trainer.get(3, 1) != _BPE:
        return models.Unigram(vocabulary, unk_id=images + unknown, byte_fallback=fallback)
    ids = {name: i for i, (name, _) in enumerate(vocabulary)}
    own = {name: i for name, i in ids.items() if i >= images}
    unknown = vocabulary[images + unknown][0]
    settings = {"unk_token": unknown, "fuse_unk": True, "byte_fallback": fallback, "ignore_merges": True}
    return models.BPE(ids, generate_merges(own), **settings)


def _normalizer(spec: dict[int, Any]) -> normalizers.Normalizer:
    steps = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    steps += [normalizers.Replace(text, symbol) for text, symbol in _symbols()]
    if charsmap := spec.get(2):
        steps.append(normalizers.Precompiled(charsmap))
    if spec.get(4, 1):
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    if spec.get(3, 1):
        steps.append(normalizers.Prepend("▁"))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])


def _decoder() -> decoders.Decoder:
    steps = [decoders.Replace(symbol, text) for text, symbol in _symbols()]
    # A blank at the beginning of a text was put there when it was encoded.
    steps += [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return decoders.Sequence(steps)


def _symbols() -> Iterator[tuple[str, str]]:
    """Texts that are symbols, longest first."""
    yield from (("\n", "<n>"), ("\t", "<|tab|>"))
    yield from ((" " * length, f"<|blank_{length}|>") for length in range(_LONGEST_BLANK, 1, -1))


# --- SentencePiece's file, which is a protocol buffer ----------------------------------------------------------------


def _read(file: Path) -> tuple[list[tuple[str, float, int]], dict[int, Any], dict[int, Any]]:
    """Pieces (text, score, type), and the settings of trainer and normalizer by field number."""
    pieces, trainer, normalizer = [], {}, {}
    try:
        for number, value in _fields(file.read_bytes()):
            if number == 1:
                piece = dict(_fields(value))
                pieces.append((piece[1].decode(), piece.get(2, 0.0), piece.get(3, 1)))
            elif number == 2:
                trainer = dict(_fields(value))
            elif number == 3:
                normalizer = dict(_fields(value))
    except (IndexError, KeyError, TypeError, AttributeError, UnicodeDecodeError, struct.error) as error:
        raise ValueError(f"{file} is not a SentencePiece file ({type(error).__name__}: {error}).") from error
    return pieces, trainer, normalizer


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers and values: integers, floats, and bytes (texts and nested messages)."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        kind = tag & 7
        if kind == 0:
            value, place = _varint(data, place)
        elif kind == 5:
            value, place = struct.unpack_from("<f", data, place)[0], place + 4
        elif kind == 2:
            length, place = _varint(data, place)
            value, place = data[place : place + length], place + length
        else:
            raise TypeError(f"wire type {kind}")
        yield tag >> 3, value


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value, place, shift = value | (byte & 127) << shift, place + 1, shift + 7
        if byte < 128:
            return value, place
