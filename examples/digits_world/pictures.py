"""Four senses of a written digit: a photograph, a film, a relief and a warm trace, each written to a file."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from .handwriting import SIDE, draw


FRAMES = 6
FRAMES_PER_SECOND = 4
WINDOW = 0.46  # width of the moving window of a film, as a share of the sheet


def photograph(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Dark ink on pale paper under uneven light. Returns: (side, side, 3) uint8."""
    paper, pen = rng.uniform(0.78, 0.98, 3), rng.uniform(0.02, 0.35, 3)
    down, right = np.meshgrid(*[np.linspace(-0.5, 0.5, ink.shape[0])] * 2, indexing="ij")
    light = 1 + rng.normal(0, 0.10) * down + rng.normal(0, 0.10) * right
    colour = (paper + ink[..., None] * (pen - paper)) * light[..., None] + rng.normal(0, 0.015, (*ink.shape, 3))
    return (colour.clip(0, 1) * 255).astype(np.uint8)


def film(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A window in a dark card slides over the sheet: no single frame shows the whole digit.

    Returns: (frames, side, side, 3) uint8.
    """
    sheet = photograph(ink, rng)
    side = ink.shape[0]
    card = (rng.uniform(0.10, 0.30, 3) * 255).astype(np.uint8)
    centres = np.linspace(0.14, 0.86, FRAMES) + rng.normal(0, 0.02, FRAMES)
    if rng.random() < 0.5:
        centres = centres[::-1]
    columns = (np.arange(side) + 0.5) / side
    frames = []
    for centre in centres:
        seen = np.abs(columns - centre) < WINDOW / 2
        frames.append(np.where(seen[None, :, None], sheet, card))
    return np.stack(frames)


def relief(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A digit raised or pressed out of a tilted plate. Returns: (side, side) uint16, distance in tenths of a mm."""
    side = ink.shape[0]
    down, right = np.meshgrid(*[np.linspace(-0.5, 0.5, side)] * 2, indexing="ij")
    height = rng.uniform(8, 14) * gaussian_filter(ink, side * rng.uniform(0.010, 0.025))
    plate = rng.uniform(380, 520) + rng.normal(0, 3.0) * down + rng.normal(0, 3.0) * right
    distance = plate - height + rng.normal(0, 0.25, ink.shape)
    return (distance * 10).round().astype(np.uint16)


def warm_trace(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A trace left by a warm finger: it spreads, and cools more where it is older.

    Returns: (side, side) uint16, temperature in hundredths of a kelvin.
    """
    side = ink.shape[0]
    down, right = np.meshgrid(*[np.linspace(-0.5, 0.5, side)] * 2, indexing="ij")
    age = rng.uniform(0.2, 1.0)
    spread = gaussian_filter(ink, side * (0.018 + 0.022 * age))
    # The finger moved mostly downwards, so the top of the digit has had more time to cool.
    cooling = np.exp(-age * (0.8 - rng.uniform(0.2, 0.9) * down + rng.normal(0, 0.3) * right))
    wall = gaussian_filter(rng.normal(0, 1, ink.shape), side / 5) * side / 5
    kelvin = rng.uniform(288, 298) + 0.25 * wall + rng.uniform(3, 6) * cooling * spread
    return ((kelvin + rng.normal(0, 0.05, ink.shape)) * 100).round().astype(np.uint16)


def write_film(path: Path, frames: np.ndarray) -> None:
    """H.264 in MP4, which every browser plays."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"crf": "20", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.time_base = Fraction(1, FRAMES_PER_SECOND)
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def write_image(path: Path, original: np.ndarray, rng: np.random.Generator) -> None:
    """PNG, 8 bits a channel."""
    Image.fromarray(photograph(draw(original, rng), rng)).save(path, compress_level=1)


def write_video(path: Path, original: np.ndarray, rng: np.random.Generator) -> None:
    """MP4 of a few frames."""
    write_film(path, film(draw(original, rng), rng))


def write_depth(path: Path, original: np.ndarray, rng: np.random.Generator) -> None:
    """16-bit PNG, distance in tenths of a mm."""
    Image.fromarray(relief(draw(original, rng), rng)).save(path, compress_level=1)


def write_thermal(path: Path, original: np.ndarray, rng: np.random.Generator) -> None:
    """16-bit PNG, temperature in hundredths of a kelvin."""
    Image.fromarray(warm_trace(draw(original, rng), rng)).save(path, compress_level=1)


__all__ = ["FRAMES", "SIDE", "write_depth", "write_image", "write_thermal", "write_video"]
