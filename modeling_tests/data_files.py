"""Files and records for the tests of data."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from modeling_tests import tiny
from transformers_anymodality.modalities import MODALITIES


datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def saved(processor, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("processor")
    processor.save_pretrained(folder)
    return str(folder)


def write(file: Path, modality: str, processor=None, seed: int = 0) -> None:
    """A medium as a file, in the format that its suffix says."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix in (".png", ".jpg"):
        Image.fromarray(tiny.medium("image", seed)).save(file)
    elif file.suffix == ".wav":
        soundfile.write(file, tiny.medium("audio", seed), 16_000)
    elif file.suffix == ".mp4":
        import av

        with av.open(str(file), "w") as container:
            stream = container.add_stream("libx264", rate=5)
            stream.width, stream.height, stream.pix_fmt = 48, 40, "yuv420p"
            for frame in tiny.medium("video", seed):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    elif file.suffix == ".csv":
        rows = tiny.medium("imu", seed)
        np.savetxt(file, rows, delimiter=",", comments="", header="ax,ay,az,gx,gy,gz")
    elif modality in ("depth", "thermal", "imu"):
        np.save(file, tiny.medium(modality, seed))
    else:
        np.save(
            file, MODALITIES[modality].dummy(processor.sub_processor(modality), processor.modalities[modality].options)
        )


def lines(file: Path, *records) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def said(*turns: str, **columns) -> dict:
    """A LLaVA record."""
    turns = [{"from": ("human", "gpt")[i % 2], "value": turn} for i, turn in enumerate(turns)]
    return {"conversations": turns, **columns}


def png(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(tiny.medium("image", seed)).save(buffer, "PNG")
    return buffer.getvalue()


def same(one: dict, other: dict) -> bool:
    return {k: v.tolist() for k, v in one.items()} == {k: v.tolist() for k, v in other.items()}
