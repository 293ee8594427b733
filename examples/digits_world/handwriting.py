"""Real handwriting: scikit-learn's digits, warped and drawn large. Says nothing of files or modalities.

The first 1437 digits are the training split and the last 360 the test split, as the set was collected: the writers
of the test split are not in the training split. A validation split, for choices that the test split must not make, is
the end of the training split, of the last writers in it.
"""

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates, spline_filter
from sklearn.datasets import load_digits


TRAIN_SIZE, VALIDATION_SIZE = 1437, 237
SIDE = 64  # pixels of a drawn digit
MARGIN = 1.0  # empty border around the 8 x 8 original, in its own pixels


def load_handwriting(split: str, validation: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """`validation`: how many of the training split's digits are the validation split.

    Returns: (items, 8, 8) ink between 0 and 1, and (items,) labels.
    """
    digits, learned = load_digits(), TRAIN_SIZE - validation
    chosen = {"train": slice(learned), "validation": slice(learned, TRAIN_SIZE), "test": slice(TRAIN_SIZE, None)}[
        split
    ]
    return digits.images[chosen] / 16.0, digits.target[chosen]


def draw(ink: np.ndarray, rng: np.random.Generator, side: int = SIDE, warp: float = 1.0) -> np.ndarray:
    """Draws an 8 x 8 original as smooth strokes, slanted, turned, scaled and bent at random.

    Returns: (side, side) ink between 0 and 1.
    """
    angle, slant = rng.normal(0, 0.10 * warp), rng.normal(0, 0.12 * warp)
    stretch = np.exp(rng.normal(0, 0.08 * warp, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1.0, 0.0], [slant, 1.0]]) @ np.diag(stretch)

    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, side)] * 2, indexing="ij")).reshape(2, -1)
    bend = gaussian_filter(rng.normal(0, 1, (2, side, side)), (0, side / 6, side / 6)) * side / 6
    places = matrix @ grid * (3.5 + MARGIN) + 3.5 + 0.45 * warp * bend.reshape(2, -1)
    places += rng.normal(0, 0.25 * warp, (2, 1))

    padded = spline_filter(np.pad(ink, 2), order=3)
    grey = map_coordinates(padded, places + 2, order=3, prefilter=False).reshape(side, side)
    # Interpolated 8 x 8 pixels are a fog; a soft threshold makes strokes with edges of them.
    return 1 / (1 + np.exp(-(grey - 0.45) * 9))
