"""Makes the world's files: for each modality a folder per split, for each item a file, its digit in the name."""

import random
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import av
import numpy as np
import soundfile
from PIL import Image

from . import motion, scenes, speech
from .handwriting import VALIDATION_SIZE, draw, load_handwriting


MODALITIES = ("image", "video", "audio", "imu", "depth", "thermal")
SUFFIX = {"image": ".png", "video": ".mp4", "audio": ".wav", "imu": ".csv", "depth": ".png", "thermal": ".png"}
# Items per split. Handwritten ones come from scikit-learn's digits, the training split's drawn anew as often as needed.
COUNTS = {"train": {"image": 2800, "video": 700, "audio": 1000, "imu": 1000, "depth": 2800, "thermal": 2800}}
COUNTS["test"] = dict.fromkeys(MODALITIES, 360)

World = dict[str, dict[str, dict[int, list[Path]]]]  # split -> modality -> digit -> files


def make_world(
    folder: Path, counts: dict[str, dict[str, int]] = COUNTS, spoil: dict[str, float] | None = None
) -> World:
    """Writes the files that are not there yet (two minutes' work for one core, done by all).

    Args:
        folder: must differ for each `spoil`, and for worlds with and without a validation split.
        counts: split -> modality -> items; the splits are "train", "test" and, if choices are to be made, "validation".
        spoil: modality (image, video, audio) -> share of each file that is replaced by noise.
    """
    validation = VALIDATION_SIZE if "validation" in counts else 0
    tasks = [
        (folder, split, modality, part, count, (spoil or {}).get(modality, 0.0), validation)
        for split, modalities in counts.items()
        for modality, count in modalities.items()
        for part in range(4)
    ]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_make, tasks))
    world: World = {
        split: {modality: defaultdict(list) for modality in modalities} for split, modalities in counts.items()
    }
    for split, modalities in world.items():
        for modality, digits in modalities.items():
            for file in sorted((folder / split / modality).iterdir()):
                digits[int(file.stem.rpartition("_")[2])].append(file)
    return world


def _make(task: tuple[Path, str, str, int, int, float, int]) -> None:
    folder, split, modality, part, count, spoil, validation = task
    target = folder / split / modality
    target.mkdir(parents=True, exist_ok=True)
    inks, labels = load_handwriting(split, validation)
    for index in range(part, count, 4):
        digit = int(labels[index % len(labels)])
        file = target / f"{index:04d}_{digit}{SUFFIX[modality]}"
        if not file.exists():
            seed = random.Random(f"{split} {modality} {index}").getrandbits(32)
            _write(modality, digit, inks[index % len(labels)], file, np.random.default_rng(seed), spoil)


def _write(modality: str, digit: int, ink: np.ndarray, file: Path, rng: np.random.Generator, spoil: float) -> None:
    if modality == "audio":
        sound = speech.say(digit, rng)
        soundfile.write(file, speech.spoil(sound, spoil, rng) if spoil else sound, speech.RATE)
    elif modality == "imu":
        rows = np.column_stack([np.arange(motion.SAMPLES) / motion.RATE, motion.write_in_air(digit, rng)])
        np.savetxt(file, rows, fmt="%.4f", delimiter=",", header=",".join(("time", *motion.CHANNELS)), comments="")
    else:
        drawn = draw(ink, rng, side=scenes.SIDE, warp=0.8)
        if modality == "video":
            frames = scenes.video(drawn, rng)
            _write_video(file, scenes.spoil(frames, spoil, rng) if spoil else frames)
        else:
            picture = {"image": scenes.photograph, "depth": scenes.relief, "thermal": scenes.warm_trace}[modality]
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
