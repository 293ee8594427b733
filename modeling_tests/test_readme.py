"""The README's Python blocks run, in order and unchanged, against a Hub cache that is made here."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from transformers import TimmWrapperConfig, TimmWrapperModel

from modeling_tests import tiny
from modeling_tests.hub_cache import publish, publish_documented
from transformers_anymodality import compose


README = Path(__file__).parents[1] / "README.md"
# Nothing is uploaded: what would be pushed is copied instead.
PRELUDE = """
import shutil
from types import SimpleNamespace
from huggingface_hub import HfApi

def upload_folder(self, repo_id, folder_path, **kwargs):
    shutil.copytree(folder_path, "pushed/" + repo_id)
    return SimpleNamespace(pr_url=None, commit_url=repo_id)

HfApi.create_repo = lambda self, repo_id, **kwargs: SimpleNamespace(repo_id=repo_id)
HfApi.upload_folder = upload_folder
"""


def fill(cache: Path) -> None:
    publish_documented(cache)
    config = TimmWrapperConfig(architecture="vit_tiny_patch16_224", model_args={"depth": 1, "img_size": 32})
    config.pretrained_cfg = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": 0}
    publish(cache, "timm/vit_small_patch16_224.augreg_in21k_ft_in1k", TimmWrapperModel(config))
    model, processor = compose(
        tiny.language_model(), tiny.modalities("image", "audio", "imu"), tokenizer=tiny.tokenizer()
    )
    publish(cache, "org/anymal", model, processor)


def media(folder: Path) -> None:
    Image.fromarray(tiny.medium("image")).save(folder / "photo.jpg")
    soundfile.write(folder / "speech.wav", tiny.medium("audio"), 16_000)
    time = np.arange(40) / 32
    np.savetxt(
        folder / "walk.csv",
        np.column_stack([time, tiny.medium("imu")]),
        delimiter=",",
        comments="",
        header="time,ax,ay,az,gx,gy,gz",
    )
    beats = np.sin(np.arange(500)[:, None] / [20, 25])
    np.savetxt(
        folder / "heart.csv",
        np.column_stack([np.arange(500) / 250, beats]),
        delimiter=",",
        comments="",
        header="time,I,II",
    )


def test_every_block_runs(tmp_path):
    pytest.importorskip("timm")
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.S | re.M)
    assert len(blocks) >= 7
    fill(tmp_path / "hub")
    media(tmp_path)
    # Each block in a namespace of its own: none may lean on what another imported.
    script = PRELUDE + "".join(
        f"\nexec(compile({block!r}, 'README block {i}', 'exec'), {{'__name__': '__main__'}})\n"
        for i, block in enumerate(blocks)
    )
    (tmp_path / "readme.py").write_text(script)
    run = subprocess.run(
        [sys.executable, "readme.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"},
    )
    assert run.returncode == 0, run.stderr[-4000:]
    light, full = (
        sum(f.stat().st_size for f in (tmp_path / name).glob("*.safetensors"))
        for name in ("my-anymal-light", "my-anymal")
    )
    assert light < full


def test_the_modality_of_ones_own_takes_at_most_forty_lines():
    block = README.read_text(encoding="utf-8").split("## Add a modality")[1].split("```python\n")[1].split("```")[0]
    own = block[: block.index("model, processor = compose")]
    assert len([line for line in own.splitlines() if line.strip()]) <= 40
