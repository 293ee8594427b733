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


def make_world(
    folder: Path, counts: dict[str, dict[str, int]] = COUNTS, spoil: dict[str, float] | None = None
) -> World:
    """Writes the files that are not there yet (two minutes' work for one core, done by all).

    Args:
        folder: another one for each `spoil`.
        counts: split -> sense -> items.
        spoil: sense -> share of its pieces (of image, video, audio) that noise takes the place of.
    """
    tasks = [
        (folder, split, sense, part, count, (spoil or {}).get(sense, 0.0))
        for split, senses in counts.items()
        for sense, count in senses.items()
        for part in range(4)
    ]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_make, tasks))
    world: World = {split: {sense: defaultdict(list) for sense in senses} for split, senses in counts.items()}
    for split, senses in world.items():
        for sense, digits in senses.items():
            for file in sorted((folder / split / sense).iterdir()):
                digits[int(file.stem.rpartition("_")[2])].append(file)
    return world


def _make(task: tuple[Path, str, str, int, int, float]) -> None:
    folder, split, sense, part, count, spoil = task
    target = folder / split / sense
    target.mkdir(parents=True, exist_ok=True)
    inks, labels = load_handwriting(split)
    for index in range(part, count, 4):
        digit = int(labels[index % len(labels)])
        file = target / f"{index:04d}_{digit}{SUFFIX[sense]}"
        if not file.exists():
            seed = random.Random(f"{split} {sense} {index}").getrandbits(32)
            _write(sense, digit, inks[index % len(labels)], file, np.random.default_rng(seed), spoil)


def _write(sense: str, digit: int, ink: np.ndarray, file: Path, rng: np.random.Generator, spoil: float) -> None:
    if sense == "audio":
        sound = speech.say(digit, rng)
        soundfile.write(file, speech.spoil(sound, spoil, rng) if spoil else sound, speech.RATE)
    elif sense == "imu":
        rows = np.column_stack([np.arange(motion.SAMPLES) / motion.RATE, motion.write_in_air(digit, rng)])
        np.savetxt(file, rows, fmt="%.4f", delimiter=",", header=",".join(("time", *motion.CHANNELS)), comments="")
    else:
        drawn = draw(ink, rng, side=scenes.SIDE, warp=0.8)
        if sense == "video":
            frames = scenes.video(drawn, rng)
            _write_video(file, scenes.spoil(frames, spoil, rng) if spoil else frames)
        else:
            picture = {"image": scenes.photograph, "depth": scenes.relief, "thermal": scenes.warm_trace}[sense]
            seen = picture(drawn, rng)
            Image.fromarray(scenes.spoil([seen], spoil, rng)[0] if spoil else seen).save(file)


def _write_video(file: Path, frames: list[np.ndarray], rate: int = 8) -> None:
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        stream.bit_rate = 400_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
