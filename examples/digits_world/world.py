"""Makes the world's files: for each sense a folder per split, for each item a file, its digit in the name."""

import random
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import av
import numpy as np
import soundfile
from PIL import Image

from . import motion, scenes, speech
from .handwriting import draw, load_handwriting


SENSES = ("image", "video", "audio", "imu", "depth", "thermal")
SUFFIX = {"image": ".png", "video": ".mp4", "audio": ".wav", "imu": ".csv", "depth": ".png", "thermal": ".png"}
# Items per split. Handwritten ones come from scikit-learn's digits, the training split's drawn anew as often as needed.
COUNTS = {"train": {"image": 2800, "video": 700, "audio": 1000, "imu": 1000, "depth": 2800, "thermal": 2800}}
COUNTS["test"] = dict.fromkeys(SENSES, 360)

World = dict[str, dict[str, dict[int, list[Path]]]]  # split -> sense -> digit -> files


def make_world(folder: Path) -> World:
    """Writes the files that are not there yet (two minutes' work for one core, done by all)."""
    tasks = [(folder, split, sense, part) for split in COUNTS for sense in SENSES for part in range(4)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_make, tasks))
    world: World = {split: {sense: defaultdict(list) for sense in SENSES} for split in COUNTS}
    for split, senses in world.items():
        for sense, digits in senses.items():
            for file in sorted((folder / split / sense).iterdir()):
                digits[int(file.stem.rpartition("_")[2])].append(file)
    return world


def _make(task: tuple[Path, str, str, int]) -> None:
    folder, split, sense, part = task
    target = folder / split / sense
    target.mkdir(parents=True, exist_ok=True)
    inks, labels = load_handwriting(split)
    for index in range(part, COUNTS[split][sense], 4):
        digit = int(labels[index % len(labels)])
        file = target / f"{index:04d}_{digit}{SUFFIX[sense]}"
        if not file.exists():
            seed = random.Random(f"{split} {sense} {index}").getrandbits(32)
            _write(sense, digit, inks[index % len(labels)], file, np.random.default_rng(seed))


def _write(sense: str, digit: int, ink: np.ndarray, file: Path, rng: np.random.Generator) -> None:
    if sense == "audio":
        soundfile.write(file, speech.say(digit, rng), speech.RATE)
    elif sense == "imu":
        rows = np.column_stack([np.arange(motion.SAMPLES) / motion.RATE, motion.write_in_air(digit, rng)])
        np.savetxt(file, rows, fmt="%.4f", delimiter=",", header=",".join(("time", *motion.CHANNELS)), comments="")
    else:
        drawn = draw(ink, rng, side=scenes.SIDE, warp=0.8)
        if sense == "video":
            _write_video(file, scenes.video(drawn, rng))
        else:
            picture = {"image": scenes.photograph, "depth": scenes.relief, "thermal": scenes.warm_trace}[sense]
            Image.fromarray(picture(drawn, rng)).save(file)


def _write_video(file: Path, frames: list[np.ndarray], rate: int = 8) -> None:
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        stream.bit_rate = 400_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
