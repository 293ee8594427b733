"""The Perceiver resampler against the public implementations, converted and reloaded."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from transformers_anymodality.aligners import PerceiverResamplerAligner
from transformers_anymodality.conversion import convert


@pytest.fixture
def resampler(tmp_path):
    """`resampler(file, config, prefix)`: the aligner that the real converter makes of a file, reloaded."""

    def make(file, config: dict, prefix: str = "") -> PerceiverResamplerAligner:
        released, output = tmp_path / f"{file.stem}-released", tmp_path / file.stem
        released.mkdir()
        weights = {f"{prefix}{name}": tensor for name, tensor in load_file(file).items()}
        if prefix:
            weights["lang_encoder.transformer.wte.weight"] = torch.zeros(3, 2)
        save_file(weights, released / "checkpoint.safetensors")
        (released / "config.json").write_text(json.dumps(config))
        report = convert("anymal", released, output)
        assert bool(report.unused) == bool(prefix)
        return AutoModel.from_pretrained(output).eval()

    return make


def run(aligner: PerceiverResamplerAligner, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, and what the first layer's attention gives."""
    caught = []
    handle = aligner.layers[0].attention.register_forward_hook(lambda module, args, output: caught.append(output))
    tokens = aligner(features)
    handle.remove()
    return tokens, caught[0]


TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def test_flamingo_pytorch_and_open_flamingo(recording, resampler):
    rec = recording("perceiver_resampler")
    aligner = resampler(rec.folder / "flamingo_pytorch.safetensors", rec.config["flamingo_pytorch"])
    for shape in ("3", "4"):
        features = rec.inputs[f"fp.x{shape}"]
        tokens, attended = run(aligner, features.unsqueeze(1) if features.ndim == 3 else features)
        rec.check(f"fp.y{shape}", tokens, **TOLERANCE)
        rec.check(f"fp.x{shape}.attn0", attended, **TOLERANCE)
    for i, config in enumerate(rec.config["open_flamingo"]):
        aligner = resampler(rec.folder / f"open_flamingo.{i}.safetensors", config, prefix="perceiver.")
        tokens, attended = run(aligner, rec.inputs[f"of{i}.x"])
        rec.check(f"of{i}.y", tokens, **TOLERANCE)
        rec.check(f"of{i}.attn0", attended, **TOLERANCE)
    rec.finish()


def test_idefics(recording, resampler):
    """Flamingo's with normed queries and keys, and ReLU."""
    rec = recording("perceiver_resampler_hf")
    config = {"resampler_head_dim": rec.config["idefics"]["head_dim"]}
    aligner = resampler(rec.folder / "idefics.safetensors", {"perceiver_config": config}, "model.perceiver_resampler.")
    rec.check("idefics.y", run(aligner, rec.inputs["idefics.x"].unsqueeze(1))[0], **TOLERANCE)
    rec.skip("idefics2.y", "another architecture (RMSNorm, gated, grouped heads), to be had from Transformers itself")
    rec.finish()


def test_other_files_are_refused(tmp_path):
    save_file({"latents": torch.zeros(2, 3)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="no Perceiver resampler"):
        convert("anymal", tmp_path, tmp_path / "ours")
