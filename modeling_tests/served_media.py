"""Media and messages for the tests of the server."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from modeling_tests import tiny


MODALITIES = {name: {} for name in ("image", "video", "audio", "imu", "depth", "thermal")}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


def wav(seconds: float) -> bytes:
    soundfile = pytest.importorskip("soundfile")
    buffer = io.BytesIO()
    soundfile.write(buffer, np.sin(np.arange(int(16000 * seconds)) / 9).astype(np.float32), 16000, format="WAV")
    return buffer.getvalue()


def movie() -> bytes:
    from modeling_tests.media_files import write_video

    buffer = io.BytesIO()
    write_video(buffer, range(0, 800, 40), range(0, 200, 10), kind="matroska")
    return buffer.getvalue()


PHOTO = png(tiny.medium("image"))
DEPTH = png((tiny.medium("depth") * 1000).astype(np.uint16))
WALK = tiny.medium("imu").tolist()
CSV = "ax,ay,az,gx,gy,gz\n" + "\n".join(",".join(f"{value:.4f}" for value in row) for row in WALK)
WORDS = {"type": "text", "text": "what is this ?"}
WORLD = "outputs/quickstart/world/test"


def image(data: bytes = PHOTO) -> dict:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{b64(data)}"}}


def user(*parts) -> list[dict]:
    return [{"role": "user", "content": [*parts, WORDS]}]
