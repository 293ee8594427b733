"""Spoken digits by formant synthesis: a source (pulses or breath) through four resonances that move.

Voices differ in pitch, in the length of the vocal tract, in speed and in hoarseness; every recording has its own noise.
"""

from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import lfilter, lfiltic


SAMPLING_RATE = 16_000
BLOCK = 80  # samples between two changes of the vocal tract: 5 ms
SECONDS = 1.0

# Phone: seconds, voicing, breath, hiss, centre of the hiss in Hz, and three formants in Hz.
PHONES = {
    "w": (0.07, 0.6, 0.0, 0.00, 0, (300, 650, 2200)),
    "r": (0.08, 0.7, 0.0, 0.00, 0, (330, 1100, 1600)),
    "n": (0.09, 0.5, 0.0, 0.00, 0, (260, 1500, 2500)),
    "v": (0.06, 0.4, 0.0, 0.06, 4500, (260, 1100, 2200)),
    "z": (0.09, 0.3, 0.0, 0.30, 5500, (280, 1700, 2600)),
    "f": (0.10, 0.0, 0.0, 0.15, 4500, (300, 1100, 2200)),
    "th": (0.09, 0.0, 0.0, 0.12, 5000, (300, 1400, 2500)),
    "s": (0.11, 0.0, 0.0, 0.50, 5800, (300, 1700, 2600)),
    "stop": (0.06, 0.0, 0.0, 0.00, 0, (300, 1700, 2600)),
    "t": (0.03, 0.0, 0.2, 0.60, 4800, (300, 1750, 2600)),
    "k": (0.03, 0.0, 0.2, 0.55, 2200, (300, 1900, 2400)),
    "ee": (0.16, 1.0, 0.0, 0.00, 0, (290, 2250, 2950)),
    "ih": (0.09, 1.0, 0.0, 0.00, 0, (400, 1950, 2550)),
    "eh": (0.10, 1.0, 0.0, 0.00, 0, (560, 1800, 2500)),
    "ah": (0.13, 1.0, 0.0, 0.00, 0, (720, 1200, 2500)),
    "uh": (0.11, 1.0, 0.0, 0.00, 0, (620, 1250, 2450)),
    "er": (0.06, 0.8, 0.0, 0.00, 0, (500, 1450, 2450)),
    "aw": (0.14, 1.0, 0.0, 0.00, 0, (560, 850, 2450)),
    "oh": (0.12, 1.0, 0.0, 0.00, 0, (450, 850, 2400)),
    "oo": (0.17, 1.0, 0.0, 0.00, 0, (310, 950, 2300)),
}
WORDS = (
    "z ih r oh oo",
    "w uh n",
    "t oo",
    "th r ee",
    "f aw r",
    "f ah ee v",
    "s ih stop k s",
    "s eh v er n",
    "eh ee stop t",
    "n ah ee n",
)


def speak(digit: int, rng: np.random.Generator) -> np.ndarray:
    """Says one digit in a voice of its own, somewhere within a second. Returns: (samples,) between -1 and 1."""
    tract, speed, hoarse = rng.uniform(0.87, 1.18), rng.uniform(0.85, 1.25), rng.uniform(0.0, 0.08)
    pitch = rng.uniform(95, 150) if tract < 1.02 else rng.uniform(150, 240)
    tracks = _tracks(WORDS[digit].split(), tract, speed, rng)
    voicing, breath, hiss, centre, formants = tracks

    time = np.linspace(0, 1, len(voicing) * BLOCK)
    melody = pitch * (1.08 - 0.22 * time + 0.02 * np.sin(2 * np.pi * 5 * time + rng.uniform(0, 6)))
    phase = np.cumsum(melody / SAMPLING_RATE)
    pulses = np.diff(np.floor(phase), prepend=0.0)
    # The glottis closes softly: two real poles take 12 dB an octave off the pulses.
    voice = lfilter([1.0], [1, -0.96], lfilter([1.0, -0.4], [1, -0.75], pulses))
    noise = rng.normal(0, 1, len(time))
    source = voice * np.repeat(voicing, BLOCK) + noise * np.repeat(breath + hoarse * voicing, BLOCK)

    sound = 0.3 * _resonate(source, formants, [70, 100, 140, 220])
    sound += 0.35 * _resonate(noise * np.repeat(hiss, BLOCK), centre[:, None], [1400])
    return _record(sound, rng)


def _tracks(word: list[str], tract: float, speed: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Gives every phone its blocks and glides from one to the next. Returns: five tracks, (blocks, ...)."""
    rows = []
    for phone in word:
        seconds, voicing, breath, hiss, centre, formants = PHONES[phone]
        blocks = max(2, round(seconds * rng.uniform(0.9, 1.2) / speed * SAMPLING_RATE / BLOCK))
        tuned = [frequency * tract * rng.normal(1, 0.03) for frequency in (*formants, 3500)]
        rows += [[voicing, breath, hiss, (centre or 4500) * tract, *tuned]] * blocks
    table = np.array(rows)
    glide = np.hanning(9) / np.hanning(9).sum()
    table[:, 3:] = _smooth(table[:, 3:], glide)
    table[:, :3] = _smooth(table[:, :3], np.ones(3) / 3)
    table[-6:, :3] *= np.linspace(1, 0.1, 6)[:, None]
    return [table[:, 0], table[:, 1], table[:, 2], table[:, 3], table[:, 4:]]


def _smooth(table: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    padded = np.pad(table, ((len(kernel) // 2,) * 2, (0, 0)), mode="edge")
    return np.stack([np.convolve(column, kernel, mode="valid") for column in padded.T], axis=1)


def _resonate(source: np.ndarray, frequencies: np.ndarray, widths: list[float]) -> np.ndarray:
    """Passes a sound through resonances in a row whose frequencies change from block to block."""
    for index, width in enumerate(widths):
        radius = np.exp(-np.pi * width / SAMPLING_RATE)
        cosines = np.cos(2 * np.pi * np.minimum(frequencies[:, index], 7400) / SAMPLING_RATE)
        heard, state = np.empty_like(source), np.zeros(2)
        for block, cosine in enumerate(cosines):
            poles = [1.0, -2 * radius * cosine, radius**2]
            piece = slice(block * BLOCK, (block + 1) * BLOCK)
            heard[piece], _ = lfilter([sum(poles)], poles, source[piece], zi=lfiltic([sum(poles)], poles, state))
            state = heard[piece][-1:-3:-1]
        source = heard
    return source


def _record(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Puts the sound somewhere into a second of noise, 8 to 25 dB below it."""
    room = int(SAMPLING_RATE * SECONDS)
    sound = sound[:room] / np.abs(sound).max()
    start = rng.integers(0, room - len(sound) + 1)
    recording = np.zeros(room)
    recording[start : start + len(sound)] = sound
    noise = lfilter([1.0], [1.0, -rng.uniform(0.0, 0.9)], rng.normal(0, 1, room))
    loudness = np.sqrt((sound**2).mean()) * 10 ** (-rng.uniform(8, 25) / 20)
    recording += noise / noise.std() * loudness
    return recording / np.abs(recording).max() * rng.uniform(0.3, 0.9)


def write_audio(path: Path, digit: int, rng: np.random.Generator) -> None:
    """WAV, 16 bits, 16 kHz."""
    soundfile.write(path, speak(digit, rng), SAMPLING_RATE, subtype="PCM_16")
