"""IMU2CLIP's encoders against what the original code gave, from each layout of their files."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

from transformers_anymodality.conversion import CONVERSIONS


FILES = ("src_encoder", "best_ckpt_state_dict", "patch_transformer")


def test_equals_the_original(recording, converted, tmp_path):
    found = recording("imu2clip")
    replay = CONVERSIONS["imu2clip"].replay
    for number, name in enumerate(FILES):
        alone = tmp_path / "releases" / str(number)
        alone.mkdir(parents=True)
        for file in (f"{name}.safetensors", "config.json"):
            shutil.copy(found.folder / file, alone)
        release = SimpleNamespace(name=name, folder=alone)
        for key, ours in replay(converted(release, "imu2clip"), found.config, found.inputs):
            found.check(key, ours, atol=2e-5)
    found.finish()
