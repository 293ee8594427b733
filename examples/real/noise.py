"""Media that are not enough alone: captions spoken in noise, and pictures that are mostly hidden."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image
from tqdm import tqdm


SIGNAL = 0.0  # decibels of speech above noise
GRID, HIDDEN = 4, 11  # a picture has 4 x 4 squares, 11 are hidden


def load(splits: dict[str, list[dict[str, Any]]], folder: Path, language: str) -> dict[str, list[dict[str, Any]]]:
    """Stamps with a picture and a recording in this language: `image`, `noisy_image`, `noisy_audio`, `caption`, `cluster`.

    Files are written once, and are the same each time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result = {}
    for split, stamps in splits.items():
        result[split] = []
        for stamp in tqdm(stamps, desc="noise", leave=False):
            if not stamp["image"] or language not in stamp["speech"]:
                continue
            base = folder / stamp["id"].replace("/", "_")
            files = {"noisy_image": base.with_suffix(".png"), "noisy_audio": base.with_suffix(".wav")}
            rng = np.random.default_rng([*stamp["id"].encode()])
            if not all(file.is_file() for file in files.values()):
                hide(Path(stamp["image"]), files["noisy_image"], rng)
                drown(Path(stamp["speech"][language]), files["noisy_audio"], rng)
            kept = {key: stamp[key] for key in ("id", "image", "caption", "cluster")}
            result[split].append(kept | {name: str(file) for name, file in files.items()})
    return result


def drown(source: Path, file: Path, rng: np.random.Generator) -> None:
    """Adds noise with the spectrum of the speech (like many speakers at once), `SIGNAL` decibels below it."""
    sound, rate = soundfile.read(source, dtype="float64", always_2d=True)
    spectrum = np.fft.rfft(sound.mean(1))
    phases = np.exp(2j * np.pi * rng.random(len(spectrum)))
    noise = np.fft.irfft(np.abs(spectrum) * phases, len(sound))
    noise *= sound.mean(1).std() / max(noise.std(), 1e-9) * 10 ** (-SIGNAL / 20)
    mixed = sound.mean(1) + noise
    soundfile.write(file, mixed / max(1.0, np.abs(mixed).max()), rate, subtype="PCM_16")


def hide(source: Path, file: Path, rng: np.random.Generator) -> None:
    """Covers `HIDDEN` of the picture's squares with grey, different ones for each picture."""
    picture = Image.open(source).convert("RGBA")
    picture = (
        Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB").resize((128, 128))
    )
    side = 128 // GRID
    grey = Image.new("RGB", (side, side), (128, 128, 128))
    for place in rng.permutation(GRID * GRID)[:HIDDEN].tolist():
        row, column = divmod(place, GRID)
        picture.paste(grey, (column * side, row * side))
    picture.save(file)
