"""Checkpoints of the published systems as an earlier version saved them, their weights as names and shapes.

`saved_systems/<name>/` holds the files of `save_pretrained` except the weights. `weights.json` holds the name, dtype and
shape of each, and `write` makes them anew: they depend on the name alone. `recorded.safetensors` holds what the
checkpoint computed for `chat`.
"""

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from modeling_tests import tiny


SAVED = Path(__file__).parent / "saved_systems"
NEW = dict(max_new_tokens=6, do_sample=False)


def weight(name: str, dtype: str, shape: list[int]) -> torch.Tensor:
    """Noise, around one for the scales of norms; variances are positive."""
    if dtype != "float32":
        return torch.zeros(shape, dtype=getattr(torch, dtype))
    noise = 0.2 * torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    return noise + 1 if len(shape) == 1 and name.endswith(("weight", "running_var")) else noise


def write(name: str, folder: Path) -> Path:
    """Writes the checkpoint of one system to `folder`."""
    shutil.copytree(SAVED / name, folder, dirs_exist_ok=True)
    table = json.loads((folder / "weights.json").read_text())
    weights = {key: weight(key, *entry) for key, entry in table.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def item(modality: str, seed: int) -> Any:
    if modality == "speech":
        return np.random.default_rng(seed).standard_normal((7, 512)).astype(np.float32)
    return tiny.medium(modality, seed)


def chat(modalities: list[str]) -> list[dict]:
    """A question about one item of each modality."""
    parts = [{"type": name, name: item(name, i)} for i, name in enumerate(modalities)]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "What are they?"}]}]
