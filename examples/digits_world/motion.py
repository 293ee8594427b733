"""A motion sensor in a hand that writes a digit in the air: acceleration with gravity, and rotation."""

import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.ndimage import gaussian_filter1d


RATE = 64  # Hz
SAMPLES = 128
CHANNELS = ("ax", "ay", "az", "gx", "gy", "gz")  # m/s^2 and rad/s

# Points that the hand passes, x to the right and y up.
STROKES = [
    [(0.5, 1), (0.1, 0.7), (0.1, 0.3), (0.5, 0), (0.9, 0.3), (0.9, 0.7), (0.5, 1)],
    [(0.3, 0.75), (0.55, 1), (0.55, 0.65), (0.55, 0.3), (0.55, 0)],
    [(0.1, 0.75), (0.5, 1), (0.9, 0.7), (0.5, 0.35), (0.1, 0), (0.5, 0.02), (0.9, 0)],
    [(0.1, 0.9), (0.6, 1), (0.8, 0.75), (0.4, 0.52), (0.85, 0.28), (0.5, 0), (0.1, 0.1)],
    [(0.6, 1), (0.3, 0.6), (0.05, 0.35), (0.5, 0.35), (0.95, 0.35), (0.7, 0.7), (0.7, 0.3), (0.7, 0)],
    [(0.85, 1), (0.3, 1), (0.2, 0.6), (0.6, 0.6), (0.85, 0.3), (0.5, 0), (0.1, 0.1)],
    [(0.75, 1), (0.3, 0.7), (0.1, 0.3), (0.4, 0), (0.8, 0.2), (0.6, 0.45), (0.15, 0.3)],
    [(0.1, 1), (0.5, 1), (0.9, 1), (0.65, 0.6), (0.45, 0.25), (0.35, 0)],
    [(0.5, 0.5), (0.15, 0.75), (0.5, 1), (0.85, 0.75), (0.5, 0.5), (0.1, 0.2), (0.5, 0), (0.9, 0.2), (0.5, 0.5)],
    [(0.85, 0.75), (0.5, 1), (0.2, 0.75), (0.5, 0.5), (0.85, 0.75), (0.8, 0.4), (0.7, 0)],
]  # fmt: skip


def write_in_air(digit: int, rng: np.random.Generator) -> np.ndarray:
    """Two seconds of one writer writing `digit`. Returns: (128, 6) float64, columns `CHANNELS`."""
    points = np.array(STROKES[digit]) - 0.5
    angle, slant = rng.normal(0, 0.12), rng.normal(0, 0.15)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (points + rng.normal(0, 0.03, points.shape)) @ (turn @ [[1, slant], [0, 1]]).T * rng.uniform(0.2, 0.4)
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    path = make_interp_spline(length / length[-1], points, k=3)

    begin, end = rng.uniform(0.02, 0.2), rng.uniform(0.8, 0.98)
    time = np.clip((np.linspace(0, 1, SAMPLES) - begin) / (end - begin), 0, 1)
    time = np.clip(time + 0.04 * rng.normal() * np.sin(np.pi * time), 0, 1)
    place = gaussian_filter1d(path(time), 2, axis=0, mode="nearest")
    place = np.column_stack([place, 0.02 * np.sin(2 * np.pi * time + rng.uniform(0, 6))])

    push = np.gradient(np.gradient(place, 1 / RATE, axis=0), 1 / RATE, axis=0)
    # The wrist turns with the hand: up and down with y, left and right with x.
    tilt = np.column_stack([place[:, 1] * 1.2, -place[:, 0] * 1.2, place[:, 0] * 0.6]) + rng.normal(0, 0.1, 3)
    felt = push + np.array([0, 9.81, 0]) + 9.81 * np.column_stack([tilt[:, 2], 0 * tilt[:, 0], -tilt[:, 0]])
    turning = np.gradient(tilt, 1 / RATE, axis=0)
    signal = np.column_stack([felt + rng.normal(0, 0.1, 3), turning + rng.normal(0, 0.02, 3)])
    return signal + rng.normal(0, 1, signal.shape) * ([0.25] * 3 + [0.05] * 3)
