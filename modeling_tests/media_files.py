"""Files of media, written by the libraries that write them, and what was shown in them."""

import io
import struct
import zlib
from fractions import Fraction

import numpy as np
import pytest


soundfile = pytest.importorskip("soundfile")
av = pytest.importorskip("av")


def encoded(image, kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png16(values: np.ndarray, colour_type: int) -> bytes:
    """A PNG of 16 bits per channel, which Pillow writes in grey only."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tone(seconds: float, rate: int, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def sound(samples: np.ndarray, rate: int, kind="WAV", subtype=None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def write_video(target, stamps, levels, codec="libx264", size=(64, 48), kind=None) -> None:
    """Frames of grey `levels` (numbers, or arrays of pixels), shown from the milliseconds `stamps` on."""
    tick = Fraction(1, 1000)
    with av.open(target, "w", format=kind, options={"movflags": "faststart"} if kind in (None, "mp4") else {}) as file:
        stream = file.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.time_base = stream.codec_context.time_base = tick
        for stamp, level in zip(stamps, levels, strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), level, np.uint8), "rgb24")
            frame.pts, frame.time_base = stamp, tick
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


STAMPS = [0, 40, 200, 240, 700, 733, 766, 800, 1500, 1900]
LEVELS = [10 + 22 * place for place in range(len(STAMPS))]


def places(frames):
    """Which of LEVELS each frame shows."""
    return np.abs(frames.mean(axis=(1, 2, 3))[:, None] - np.array(LEVELS)).argmin(axis=1)
