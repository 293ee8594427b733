"""seglearn's watch data: seven exercises of the shoulder, recorded with six axes of a watch."""

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np


RATE = 50  # Hz, from its loader
SECONDS = 5.0
GRAVITY = 9.80665
COLUMNS = ("time", "ax", "ay", "az", "gx", "gy", "gz")
# The data set's short names -> the paper's names of the exercises (arXiv 1802.01489).
EXERCISES = {
    "PEN": "pendulum",
    "ABD": "abduction",
    "FEL": "forward elevation",
    "IR": "internal rotation",
    "ER": "external rotation",
    "TRAP": "trapezius extension",
    "ROW": "upright row",
}
SUBJECTS = {"train": (1, 2, 3, 4, 5, 6, 7), "validation": (8,), "test": (9, 10)}
# The file is a pickle, which runs code when it is read. So a separate process converts it to arrays, once.
_CONVERT = """
import sys, numpy
data = numpy.load(sys.argv[1], allow_pickle=True).item()
lengths = [len(one) for one in data["X"]]
numpy.savez(sys.argv[2], values=numpy.concatenate(data["X"]), lengths=lengths, exercise=data["y"], subject=data["subject"],
            side=data["side"], columns=numpy.array(data["X_labels"], str), names=numpy.array(data["y_labels"], str))
"""


def plain(raw: Path, file: Path) -> dict[str, np.ndarray]:
    """The recordings as plain arrays, stored in `file`: `values (all samples, 6)`, `lengths (recordings,)`, and `exercise`,
    `subject`, `side` of each recording."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f"half-{file.name}")
        source = next(raw.rglob("watch_dataset.npy"))
        subprocess.run([sys.executable, "-I", "-c", _CONVERT, str(source), str(beside)], check=True)
        beside.rename(file)
    with np.load(file, allow_pickle=False) as data:
        return dict(data)


def load(raw: Path, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Split -> windows of `SECONDS`: `imu`, a CSV with `COLUMNS` in s, m/s^2 (gravity included) and rad/s; `exercise`,
    `subject`, `side`. Each subject is in one split.

    The file has g and rad/s: if the watch is still, the length of the acceleration is 1.01; if it turns, the direction of
    gravity turns at 0.4 of the gyroscope's speed (median), which would be 22 times it in degrees. The two sensors do not
    share a frame: no exchange of axes and signs makes them agree.
    """
    data = plain(raw, folder / "watch.npz")
    if tuple(data["columns"].tolist()) != ("ax", "ay", "az", "wx", "wy", "wz"):
        raise ValueError(f"{raw} has the columns {data['columns'].tolist()}; six others were expected.")
    split_of = {subject: split for split, subjects in SUBJECTS.items() for subject in subjects}
    names = [EXERCISES[short] for short in data["names"].tolist()]
    result, samples = {split: [] for split in SUBJECTS}, round(RATE * SECONDS)
    recordings = np.split(data["values"], np.cumsum(data["lengths"])[:-1])
    for i, values in enumerate(recordings):
        subject = int(data["subject"][i])
        values = values * ([GRAVITY] * 3 + [1.0] * 3)
        for start in range(0, len(values) - samples + 1, samples):
            name = f"{i:03}_{start // samples:02}"
            file = folder / f"{name}.csv"
            if not file.is_file():
                _write(file, values[start : start + samples])
            side = "right" if data["side"][i] else "left"
            item = {"id": name, "imu": str(file), "exercise": names[int(data["exercise"][i])]}
            result[split_of[subject]].append({**item, "subject": subject, "side": side})
    return result


def _write(file: Path, values: np.ndarray) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for i, row in enumerate(values):
            writer.writerow([f"{i / RATE:.2f}", *(f"{value:.5f}" for value in row)])
