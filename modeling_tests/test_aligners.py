"""Every registered aligner keeps the promises of all; the Perceiver resampler equals the public implementations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from modeling_tests import tiny
from transformers_anymodality.aligners import ALIGNERS, PerceiverResamplerAligner, PerceiverResamplerAlignerConfig


PARITY = Path(__file__).parent / "parity"
# What an aligner needs beyond the sizes that all have, to be tiny.
SMALL = {
    "linear": [{}, {"num_tokens": 3}],
    "mlp": [{}, {"pool": "stride", "pool_size": 3}, {"pool": "stride", "num_tokens": 2}],
    "perceiver_resampler": [
        {"depth": 2, "num_heads": 2, "head_dim": 8, "num_tokens": 3},
        {"depth": 1, "num_heads": 2, "head_dim": 8, "num_tokens": 3, "frame_embeddings": 2, "time_embeddings": 1},
        {"depth": 1, "num_heads": 2, "head_dim": 8, "num_tokens": 3, "per_frame": True, "time_embeddings": 2},
    ],
    "qformer": [{"depth": 2, "num_heads": 2, "qformer_hidden_size": 16, "intermediate_size": 24, "num_tokens": 3}],
}
CASES = [(name, i) for name in ALIGNERS for i in range(len(SMALL.get(name, [{}])))]


def make(name: str, case: int = 0, length: int | None = 7, frames: int = 2, **kwargs):
    settings = {**SMALL.get(name, [{}])[case], **kwargs}
    config = ALIGNERS[name].config_class(
        feature_size=12, hidden_size=20, feature_length=length, num_frames=frames, **settings
    )
    aligner = AutoModel.from_config(config).eval()
    tiny.spread(aligner)
    return aligner


@pytest.mark.parametrize("name, case", CASES)
def test_shapes_and_counts(name, case):
    aligner = make(name, case)
    tokens = aligner(torch.randn(5, 2, 7, 12))
    assert tokens.shape == (5, aligner.config.count_tokens(2, 7), 20)


@pytest.mark.parametrize("name, case", CASES)
def test_padding_is_not_read(name, case):
    aligner = make(name, case, length=None, frames=1)
    if (name, case) == ("perceiver_resampler", 1):
        pytest.skip("frame embeddings make no difference with one frame")
    short = torch.randn(1, 1, 5, 12)
    padded = torch.cat([short, 1e3 * torch.ones(1, 1, 4, 12)], dim=2)
    mask = torch.tensor([True] * 5 + [False] * 4).view(1, 1, 9)
    count = aligner.config.count_tokens(1, 5)
    torch.testing.assert_close(aligner(padded, mask)[:, :count], aligner(short)[:, :count], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name, case", CASES)
def test_eager_equals_sdpa(name, case):
    aligner, features = make(name, case), torch.randn(3, 2, 7, 12)
    expected = aligner(features)
    aligner.set_attn_implementation("eager")
    torch.testing.assert_close(aligner(features), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name, case", CASES)
def test_saves_loads_and_trains_every_weight(name, case, tmp_path):
    aligner, features = make(name, case), torch.randn(3, 2, 7, 12)
    aligner.save_pretrained(tmp_path)
    assert torch.equal(AutoModel.from_pretrained(tmp_path)(features), aligner(features))
    aligner.train()
    (aligner(features) * torch.randn(20)).sum().backward()
    assert [n for n, p in aligner.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("name, case", CASES)
def test_gradient_checkpointing_changes_nothing(name, case):
    features, gradients = torch.randn(3, 2, 7, 12), []
    if not ALIGNERS[name].supports_gradient_checkpointing:
        pytest.skip("too small to checkpoint")
    for checkpointing in (False, True):
        torch.manual_seed(0)
        aligner = make(name, case).train()
        if checkpointing:
            aligner.activation_checkpointing_enable()
        aligner(features.clone().requires_grad_()).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in aligner.parameters()]))
    torch.testing.assert_close(*gradients)


def test_pixel_shuffle_merges_neighbours():
    aligner = make("mlp", length=16, frames=1, pool="pixel_shuffle", pool_size=2)
    features = torch.arange(16.0).view(1, 1, 16, 1).expand(1, 1, 16, 12)
    merged, _ = aligner.merge(features, None)
    assert merged[0, 0, :, ::12].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert aligner(features).shape == (1, 4, 20)
    with pytest.raises(ValueError, match="no square grid.*select_feature"):
        aligner.config.count_tokens(1, 17)


# --- parity --------------------------------------------------------------------------------------------------------


def renamed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of the public implementations by our names."""
    names = {
        "norm_media.": "attention.norm_media.",
        "norm_latents.": "attention.norm_latents.",
        "to_q.": "attention.q_proj.",
        "to_out.": "attention.o_proj.",
        "context_layer_norm.": "attention.norm_media.",
        "latents_layer_norm.": "attention.norm_latents.",
        "q_proj.": "attention.q_proj.",
        "k_proj.": "attention.k_proj.",
        "v_proj.": "attention.v_proj.",
        "output_proj.": "attention.o_proj.",
        "q_layer_norm.": "attention.q_norm.",
        "k_layer_norm.": "attention.k_norm.",
        "ln.": "norm.",
        "fc.": "up_proj.",
        "c_proj.": "down_proj.",
        "0.": "norm.",
        "1.": "up_proj.",
        "3.": "down_proj.",
    }
    ours = {}
    for name, tensor in weights.items():
        if name in ("media_pos_emb", "media_time_embs"):
            ours["time_embeddings"] = tensor.squeeze(1)
        elif name == "frame_embs":
            ours["frame_embeddings"] = tensor
        elif name.startswith(("layers.", "blocks.")):
            _, layer, _, rest = name.split(".", 3)
            prefix = f"layers.{layer}."
            if rest == "to_kv.weight":
                ours[f"{prefix}attention.k_proj.weight"], ours[f"{prefix}attention.v_proj.weight"] = tensor.chunk(2)
            else:
                old = next(old for old in names if rest.startswith(old))
                ours[prefix + names[old] + rest[len(old) :]] = tensor
        else:
            ours[name.replace("layer_norm.", "norm.")] = tensor
    return ours


def resampler(weights: Path, **settings) -> PerceiverResamplerAligner:
    tensors = renamed(load_file(weights))
    sizes = {name: len(tensors[name]) for name in ("time_embeddings", "frame_embeddings") if name in tensors}
    config = PerceiverResamplerAlignerConfig(project=False, **sizes, **settings)
    aligner = AutoModel.from_config(config).eval()
    aligner.load_state_dict(tensors)
    return aligner


def recorded(folder: str):
    root = PARITY / folder
    config = json.loads((root / "config.json").read_text())
    return root, config, load_file(root / "inputs.safetensors"), load_file(root / "outputs.safetensors")


def sizes(dims: dict) -> dict:
    return {
        "feature_size": dims["dim"],
        "hidden_size": dims["dim"],
        "depth": dims["depth"],
        "num_heads": dims["heads"],
        "head_dim": dims["dim_head"],
        "num_tokens": dims["num_latents"],
    }


def first_attention(aligner, features) -> torch.Tensor:
    caught = []
    handle = aligner.layers[0].attention.register_forward_hook(lambda module, args, output: caught.append(output))
    aligner(features)
    handle.remove()
    return caught[0]


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours.reshape(theirs.shape), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", ["x3", "x4"])
def test_resampler_equals_flamingo_pytorch(shape):
    root, config, inputs, outputs = recorded("perceiver_resampler")
    aligner = resampler(root / "flamingo_pytorch.safetensors", per_frame=True, **sizes(config["flamingo_pytorch"]))
    features = inputs[f"fp.{shape}"]
    features = features.unsqueeze(1) if features.ndim == 3 else features
    close(aligner(features), outputs[f"fp.y{shape[1]}"])
    close(first_attention(aligner, features), outputs[f"fp.{shape}.attn0"])


@pytest.mark.parametrize("index", [0, 1])
def test_resampler_equals_open_flamingo(index):
    root, config, inputs, outputs = recorded("perceiver_resampler")
    aligner = resampler(root / f"open_flamingo.{index}.safetensors", **sizes(config["open_flamingo"][index]))
    close(aligner(inputs[f"of{index}.x"]), outputs[f"of{index}.y"])
    close(first_attention(aligner, inputs[f"of{index}.x"]), outputs[f"of{index}.attn0"])


def test_resampler_equals_idefics():
    """IDEFICS's is Flamingo's with normed queries and keys, and ReLU. IDEFICS2's (RMSNorm, gated, grouped heads) is
    another architecture, to be had from Transformers itself."""
    root, config, inputs, outputs = recorded("perceiver_resampler_hf")
    dims = {**config["idefics"], "dim": config["idefics"]["embed_dim"], "heads": config["idefics"]["n_heads"]}
    dims |= {"dim_head": dims["head_dim"], "num_latents": dims["n_latents"]}
    aligner = resampler(root / "idefics.safetensors", qk_norm=True, hidden_act="relu", **sizes(dims))
    close(aligner(inputs["idefics.x"].unsqueeze(1)), outputs["idefics.y"])
