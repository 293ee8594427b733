"""The Perceiver resampler against the public implementations, converted and reloaded."""

import pytest
import torch
from safetensors.torch import save_file

from transformers_anymodality.conversion import convert


TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def within(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """A resampler as a part of a larger checkpoint."""
    others = {"lang_encoder.transformer.wte.weight": torch.zeros(3, 2)}
    return others | {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def test_flamingo_pytorch_and_open_flamingo(recording, converted):
    rec = recording("perceiver_resampler")
    if (tensors := rec.weights("flamingo_pytorch")) is not None:
        config = rec.config["flamingo_pytorch"]
        aligner = converted("perceiver_resampler", config=config, files={"checkpoint": tensors})
        rec.replay("perceiver_resampler", aligner, "fp", **TOLERANCE)
    for i, config in enumerate(rec.config.get("open_flamingo", [])):
        files = {"checkpoint": within(rec.weights(f"open_flamingo.{i}"), "perceiver.")}
        aligner = converted("perceiver_resampler", config=config, files=files)
        rec.replay("perceiver_resampler", aligner, f"of{i}", **TOLERANCE)
    rec.finish()


def test_idefics(recording, converted):
    """Flamingo's with normed queries and keys, and ReLU."""
    rec = recording("perceiver_resampler_hf")
    if (tensors := rec.weights("idefics")) is None:
        pytest.skip("not recorded")
    config = {"perceiver_config": {"resampler_head_dim": rec.config["idefics"]["head_dim"]}}
    files = {"checkpoint": within(tensors, "model.perceiver_resampler.")}
    rec.replay(
        "perceiver_resampler", converted("perceiver_resampler", config=config, files=files), "idefics", **TOLERANCE
    )
    rec.skip(
        r"idefics2\..*", "another architecture (RMSNorm, gated, grouped heads), to be had from Transformers itself"
    )
    rec.finish()


def test_other_files_are_refused(tmp_path):
    save_file({"latents": torch.zeros(2, 3)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="not hold a Perceiver resampler"):
        convert("perceiver_resampler", tmp_path, tmp_path / "ours")
