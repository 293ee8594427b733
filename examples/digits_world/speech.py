"""Spoken digits by source and filter: a buzzing or hissing source, shaped by three resonances that glide.

Speakers differ in pitch, in the length of their vocal tract and in speed.
"""

from collections.abc import Iterable

import numpy as np
from scipy.signal import lfilter


RATE = 16_000  # Hz
STEP = 160  # samples between two settings of the filter

# Phoneme: three resonances (Hz), loudness of the voice, loudness of the hiss, seconds.
PHONEMES = {
    "iy": (280, 2250, 2900, 1.0, 0.0, 0.13), "ih": (400, 1950, 2550, 1.0, 0.0, 0.10),
    "eh": (550, 1770, 2500, 1.0, 0.0, 0.11), "ey": (420, 2100, 2700, 1.0, 0.0, 0.18),
    "ah": (640, 1190, 2390, 1.0, 0.0, 0.12), "ao": (570, 840, 2410, 1.0, 0.0, 0.16),
    "ay": (730, 1200, 2500, 1.0, 0.0, 0.12), "ow": (460, 900, 2400, 1.0, 0.0, 0.16),
    "uw": (300, 870, 2240, 1.0, 0.0, 0.18), "r": (420, 1300, 1600, 0.8, 0.0, 0.09),
    "w": (300, 610, 2200, 0.7, 0.0, 0.08), "n": (280, 1300, 2500, 0.5, 0.0, 0.10),
    "z": (300, 1800, 4500, 0.3, 0.5, 0.10), "v": (300, 1200, 2300, 0.4, 0.2, 0.07),
    "s": (3500, 4800, 6000, 0.0, 0.7, 0.12), "f": (1200, 3000, 5500, 0.0, 0.3, 0.10),
    "th": (1500, 3500, 5800, 0.0, 0.2, 0.09), "t": (2500, 4000, 5500, 0.0, 0.8, 0.03),
    "k": (1800, 2600, 4000, 0.0, 0.7, 0.03), "-": (500, 1500, 2500, 0.0, 0.0, 0.04),
}  # fmt: skip
WORDS = [
    "z iy r ow", "w ah n", "- t uw", "th r iy", "f ao r", "f ay iy v", "s ih - k s", "s eh v ah n", "ey - t", "n ay iy n",
]  # fmt: skip


def say(digit: int, rng: np.random.Generator) -> np.ndarray:
    """One second of one speaker saying `digit` in noise. Returns: (16000,) float32."""
    sound, samples = _word(digit, _speaker(rng), rng)
    whole = np.zeros(RATE)
    start = rng.integers(0, max(1, RATE - samples))
    whole[start : start + samples] = sound[: RATE - start]
    whole /= np.abs(whole).max() + 1e-9
    loudness = np.sqrt(np.mean(whole[start : start + samples] ** 2))
    whole += rng.normal(0, loudness * 10 ** (-rng.uniform(5, 20) / 20), RATE)
    return (0.5 * whole / np.abs(whole).max()).astype(np.float32)


def say_string(
    digits: Iterable[int],
    rng: np.random.Generator,
    noise: tuple[float, float] = (5, 20),
    buried: int | None = None,
    depth: float = 12,
) -> np.ndarray:
    """One speaker saying one digit after another, with short pauses, in noise.

    Args:
        noise: how many decibels the voice is above it, at least and at most.
        buried: place of a digit over which the noise is `depth` decibels above the voice, pauses around it included.

    Returns:
        (samples,) float32.
    """
    speaker, pieces = _speaker(rng), []
    for digit in digits:
        pieces += [np.zeros(int(RATE * rng.uniform(0.02, 0.1))), _word(digit, speaker, rng)[0]]
    pieces.append(np.zeros(int(RATE * rng.uniform(0.02, 0.1))))
    whole = np.concatenate(pieces)
    loudness = np.sqrt(np.mean(whole[whole != 0] ** 2))
    level = np.full(len(whole), 10 ** (-rng.uniform(*noise) / 20))
    if buried is not None:
        ends = np.cumsum([0, *map(len, pieces)])
        level[ends[2 * buried] : ends[2 * buried + 3]] = 10 ** (depth / 20)
    whole += rng.normal(0, loudness * level)
    return (0.5 * whole / np.abs(whole).max()).astype(np.float32)


def spoil(sound: np.ndarray, share: float, rng: np.random.Generator, seconds: float = 0.04) -> np.ndarray:
    """Noise, as loud as the sound, in `share` of its pieces of some `seconds`. Returns: as `sound`, (samples,) float32."""
    size = int(RATE * seconds)
    pieces = -(-len(sound) // size)
    lost = np.repeat(rng.permutation(pieces) < share * pieces, size)[: len(sound)]
    loud = sound[np.abs(sound) > 0.1 * np.abs(sound).max()]
    return np.where(lost, rng.normal(0, loud.std(), len(sound)), sound).clip(-1, 1).astype(np.float32)


def _speaker(rng: np.random.Generator) -> tuple[float, float, float]:
    """Pitch (Hz), length of the vocal tract, speed."""
    return rng.uniform(90, 240), rng.uniform(0.88, 1.15), rng.uniform(0.8, 1.25)


def _word(digit: int, speaker: tuple[float, float, float], rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """A digit without noise, (samples,) float64, and how many samples it has."""
    pitch, tract, speed = speaker
    targets = np.array([PHONEMES[name][:5] for name in WORDS[digit].split()])
    lengths = (
        np.array([PHONEMES[name][5] for name in WORDS[digit].split()]) / speed * rng.uniform(0.9, 1.1, len(targets))
    )
    middles = np.cumsum(lengths) - lengths / 2
    time = np.arange(0, lengths.sum(), STEP / RATE)
    track = np.stack([np.interp(time, middles, column) for column in targets.T], axis=1)

    samples = len(time) * STEP
    melody = pitch * (1 + 0.1 * np.linspace(1, -1, samples) + 0.02 * np.sin(np.linspace(0, 30, samples)))
    phase = np.cumsum(melody / RATE)
    buzz = np.diff(np.floor(phase), prepend=0) - 0.05
    hiss = rng.normal(0, 0.25, samples)
    voice, noise = np.repeat(track[:, 3], STEP), np.repeat(track[:, 4], STEP)
    return _resonate(buzz * voice + hiss * noise, track[:, :3] * tract), samples


def _resonate(source: np.ndarray, resonances: np.ndarray) -> np.ndarray:
    """Sends `source` (samples,) through resonances (steps, 3) in a row."""
    for column in resonances.T:
        state, out = np.zeros(2), []
        for i, centre in enumerate(np.minimum(column, 0.45 * RATE)):
            radius = np.exp(-np.pi * (60 + 0.06 * centre) / RATE)
            poles = [1, -2 * radius * np.cos(2 * np.pi * centre / RATE), radius**2]
            piece, state = lfilter([sum(poles)], poles, source[i * STEP : (i + 1) * STEP], zi=state)
            out.append(piece)
        source = np.concatenate(out)
    return source
