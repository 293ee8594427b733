"""Converts a Whisper in CTranslate2's format, `model.bin`, to an ordinary Hugging Face folder."""

import json
import re
import struct
from pathlib import Path

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)


# CTranslate2's numbers for its types (include/ctranslate2/types.h).
TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
ENGLISH, MULTILINGUAL = 51864, 51865  # tokens of the two vocabularies
HEAD = 64  # width of an attention head, in all sizes of Whisper


def read_model(file: Path) -> tuple[str, dict[str, np.ndarray]]:
    """The spec's name, and every variable under its name, also under a second name.

    The format, little-endian: version, the spec's name and revision, then the number of variables, each as name, rank (one
    byte), sizes, type (one byte), bytes; then the aliases as pairs of names. A string is its length (16 bits) and its bytes,
    ending with zero.
    """
    with file.open("rb") as stream:

        def number(kind: str) -> int:
            return struct.unpack(f"<{kind}", stream.read(struct.calcsize(kind)))[0]

        def text() -> str:
            return stream.read(number("H"))[:-1].decode()

        if (version := number("I")) < 5:
            raise ValueError(f"{file} has CTranslate2's version {version}; only 5 and 6 are supported.")
        name, _ = text(), number("I")
        variables = {}
        for _ in range(number("I")):
            key, rank = text(), number("B")
            shape = struct.unpack(f"<{rank}I", stream.read(4 * rank))
            kind = number("B")
            if kind not in TYPES:
                raise ValueError(f"{file}: {key} has the type {kind}; known: {sorted(TYPES)}.")
            data = stream.read(number("I"))
            variables[key] = np.frombuffer(data, TYPES[kind]).reshape(shape)
        for _ in range(number("I")):
            alias, key = text(), text()
            variables[alias] = variables[key]
    return name, variables


class _Weights:
    """Turns CTranslate2's variables into a state dict of Transformers' Whisper."""

    def __init__(self, variables: dict[str, np.ndarray]):
        self.variables, self.state = variables, {}

    def get(self, key: str) -> torch.Tensor:
        """float32; 8-bit weights are divided by their scales, one per row."""
        values = self.variables[key]
        scaled = values.astype(np.float32)
        if values.dtype == np.int8:
            scale = self.variables[f"{key}_scale"]
            scaled = scaled / scale.reshape(-1, *[1] * (values.ndim - 1))
        return torch.from_numpy(scaled.copy())

    def norm(self, source: str, target: str) -> None:
        self.state |= {f"{target}.weight": self.get(f"{source}/gamma"), f"{target}.bias": self.get(f"{source}/beta")}

    def linear(self, source: str, *targets: str) -> None:
        """One layer, or several that are stacked. Keys of attention have no bias in Transformers, and zeros here."""
        weights, biases = (self.get(f"{source}/{kind}").chunk(len(targets)) for kind in ("weight", "bias"))
        for target, weight, bias in zip(targets, weights, biases, strict=True):
            self.state[f"{target}.weight"] = weight
            if not target.endswith("k_proj"):
                self.state[f"{target}.bias"] = bias

    def layer(self, source: str, target: str, crossed: bool) -> None:
        own, other = f"{target}.self_attn", f"{target}.encoder_attn"
        self.norm(f"{source}/self_attention/layer_norm", f"{own}_layer_norm")
        self.linear(f"{source}/self_attention/linear_0", *(f"{own}.{name}_proj" for name in "qkv"))
        self.linear(f"{source}/self_attention/linear_1", f"{own}.out_proj")
        if crossed:
            self.norm(f"{source}/attention/layer_norm", f"{other}_layer_norm")
            self.linear(f"{source}/attention/linear_0", f"{other}.q_proj")
            self.linear(f"{source}/attention/linear_1", f"{other}.k_proj", f"{other}.v_proj")
            self.linear(f"{source}/attention/linear_2", f"{other}.out_proj")
        self.norm(f"{source}/ffn/layer_norm", f"{target}.final_layer_norm")
        for i in (0, 1):
            self.linear(f"{source}/ffn/linear_{i}", f"{target}.fc{i + 1}")


def whisper_from(file: Path) -> WhisperForConditionalGeneration:
    """The model of a `model.bin`, in float32. Raises ValueError if it is not a Whisper or does not fill it exactly."""
    name, variables = read_model(file)
    if name != "WhisperSpec":
        raise ValueError(f"{file} holds a {name}, not Whisper.")
    weights, layers = _Weights(variables), {}
    for side in ("encoder", "decoder"):
        found = (re.match(rf"{side}/layer_(\d+)/", key) for key in variables)
        layers[side] = 1 + max(int(match[1]) for match in found if match)
        for i in range(layers[side]):
            weights.layer(f"{side}/layer_{i}", f"model.{side}.layers.{i}", crossed=side == "decoder")
        weights.norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        places = weights.get(f"{side}/position_encodings/encodings")
        weights.state[f"model.{side}.embed_positions.weight"] = places
    for name in ("conv1", "conv2"):
        weights.linear(f"encoder/{name}", f"model.encoder.{name}")
    words = weights.get("decoder/embeddings/weight")
    weights.state |= {"model.decoder.embed_tokens.weight": words, "proj_out.weight": words}
    model = WhisperForConditionalGeneration(_config(weights.state, layers))
    model.load_state_dict(weights.state)
    return model.eval()


def _config(state: dict[str, torch.Tensor], layers: dict[str, int]) -> WhisperConfig:
    (rows, width), bands = state["proj_out.weight"].shape, state["model.encoder.conv1.weight"].shape[1]
    inner = state["model.encoder.layers.0.fc1.weight"].shape[0]
    end = 50257 if rows >= MULTILINGUAL else 50256 if rows == ENGLISH else rows - 1
    return WhisperConfig(
        vocab_size=rows,
        num_mel_bins=bands,
        d_model=width,
        **{f"{side}_layers": count for side, count in layers.items()},
        **{f"{side}_attention_heads": width // HEAD for side in layers},
        **{f"{side}_ffn_dim": inner for side in layers},
        **{
            f"max_{name}_positions": len(state[f"model.{side}.embed_positions.weight"])
            for name, side in _PLACES.items()
        },
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end),
        decoder_start_token_id=min(end + 1, rows - 1),
    )


_PLACES = {"source": "encoder", "target": "decoder"}


def generation_config(model: WhisperForConditionalGeneration, released: dict, tokenizer) -> GenerationConfig:
    """Settings of stock `generate` for an English-only Whisper. `released`: the `config.json` next to `model.bin`."""
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("startofprev", "notimestamps")}
    return GenerationConfig(
        is_multilingual=model.config.vocab_size >= MULTILINGUAL,
        max_length=model.config.max_target_positions,
        **{f"{name}_token_id": getattr(model.config, f"{name}_token_id") for name in ("bos", "eos", "pad")},
        decoder_start_token_id=model.config.decoder_start_token_id,
        no_timestamps_token_id=ids["notimestamps"],
        prev_sot_token_id=ids["startofprev"],
        max_initial_timestamp_index=50,  # one second, as in OpenAI's own decoding
        return_timestamps=False,
        suppress_tokens=released["suppress_ids"],
        begin_suppress_tokens=released["suppress_ids_begin"],
        alignment_heads=released["alignment_heads"],
    )


def convert(source: Path, target: Path) -> WhisperForConditionalGeneration:
    """`model.bin`, `tokenizer.json` and `config.json` in `source` -> weights, tokenizer, feature extractor in `target`."""
    model = whisper_from(source / "model.bin")
    tokenizer = WhisperTokenizer.from_pretrained(source)
    tokenizer.pad_token = tokenizer.eos_token
    released = json.loads((source / "config.json").read_text())
    model.generation_config = generation_config(model, released, tokenizer)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    WhisperFeatureExtractor(feature_size=model.config.num_mel_bins).save_pretrained(target)
    return model
