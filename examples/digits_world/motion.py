"""The hand that writes a digit in the air, as felt by an accelerometer and a gyroscope in a pen."""

from pathlib import Path

import numpy as np
from scipy.interpolate import CubicSpline


SAMPLING_RATE = 64
SECONDS = 2.0
GRAVITY = 9.81
COLUMNS = ("time", "ax", "ay", "az", "gx", "gy", "gz")

# Way points of the pen, x to the right and y upwards, in a box from 0 to 1.
STROKES = (
    "50,100 15,80 10,45 25,8 55,0 85,20 90,55 80,88 50,100",
    "25,75 40,88 52,100 52,66 52,33 52,0",
    "12,75 30,97 62,98 80,75 62,45 35,20 10,2 45,3 90,4",
    "15,90 45,100 78,82 68,58 42,53 70,48 88,24 55,0 12,12",
    "60,100 38,68 10,35 45,33 90,35 70,60 68,80 68,40 68,0",
    "85,98 50,98 20,97 17,75 17,55 50,62 85,40 75,8 35,0 10,12",
    "75,98 42,80 18,45 22,10 55,0 82,18 75,42 48,48 22,30",
    "10,97 45,98 90,97 72,65 52,32 38,0",
    "75,88 45,100 22,80 45,55 75,32 60,3 30,5 22,30 50,54 78,78 72,92",
    "82,80 55,100 25,85 25,60 52,50 80,68 84,85 80,50 70,0",
)


def write_in_the_air(digit: int, rng: np.random.Generator) -> np.ndarray:
    """Returns: (samples, 6) acceleration in m/s^2 and turn rate in rad/s."""
    samples = int(SAMPLING_RATE * SECONDS)
    points = np.array([pair.split(",") for pair in STROKES[digit].split()], dtype=float) / 100 - 0.5
    points += rng.normal(0, 0.035, points.shape)
    angle, slant, size = rng.normal(0, 0.15), rng.normal(0, 0.15), 0.25 * np.exp(rng.normal(0, 0.2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = size * points @ turn.T + size * slant * points[:, 1:] * [1, 0]

    way = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))]) / size
    hurry = np.cumsum(np.diff(way, prepend=0) * np.exp(rng.normal(0, 0.10, len(way))))
    begin, length = rng.uniform(0.05, 0.35), rng.uniform(1.1, 1.55)
    path = CubicSpline(begin + length * hurry / hurry[-1], points, bc_type="clamped")

    time = np.arange(samples) / SAMPLING_RATE
    moving = ((time > begin) & (time < begin + length))[:, None]
    inside = time.clip(begin, begin + length)
    acceleration, speed = path(inside, 2) * moving, path(inside, 1) * moving

    # The forearm turns about the elbow, some 30 cm away, so that writing shows as turning; the pen also rolls a little.
    roll = rng.normal(0, 0.3) * speed.sum(axis=1)
    turning = np.stack([roll, -speed[:, 1] / 0.3, speed[:, 0] / 0.3], axis=1)
    grip = rng.normal(0, 0.12, 2)
    pull = GRAVITY * np.array([np.sin(grip[0]), np.cos(grip[0]) * np.cos(grip[1]), np.sin(grip[1])])
    felt = np.stack([acceleration[:, 0], acceleration[:, 1], 0.1 * acceleration.sum(axis=1)], axis=1) + pull
    drift = rng.normal(0, 0.03, 3)
    record = np.concatenate([felt, turning + drift], axis=1)
    return record + rng.normal(0, 1, record.shape) * ([0.15] * 3 + [0.03] * 3)


def write_imu(path: Path, digit: int, rng: np.random.Generator) -> None:
    """CSV: a time column in seconds, then six channels."""
    record = write_in_the_air(digit, rng)
    time = np.arange(len(record))[:, None] / SAMPLING_RATE
    np.savetxt(path, np.hstack([time, record]), delimiter=",", header=",".join(COLUMNS), comments="", fmt="%.4f")
