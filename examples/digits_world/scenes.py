"""Pictures of a handwritten digit: a photograph, a video of it appearing and moving, its relief, its warm trace."""

import numpy as np
from scipy.ndimage import gaussian_filter, shift


SIDE = 32


def photograph(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Coloured ink on coloured paper in uneven light. Returns: (side, side, 3) uint8."""
    paper, pen = rng.uniform(0.75, 1.0, 3), rng.uniform(0.0, 0.35, 3)
    colour = paper + ink[..., None] * (pen - paper)
    light = 1 + rng.uniform(-0.15, 0.15) * np.linspace(-1, 1, len(ink))[:, None, None]
    return np.clip(255 * (colour * light + rng.normal(0, 0.02, colour.shape)), 0, 255).astype(np.uint8)


def video(ink: np.ndarray, rng: np.random.Generator, frames: int = 8) -> list[np.ndarray]:
    """The digit is uncovered from top to bottom while the sheet moves. Returns: `frames` of (side, side, 3) uint8."""
    start, end = rng.uniform(-3, 3, 2), rng.uniform(-3, 3, 2)
    paper, pen = rng.uniform(0.75, 1.0, 3), rng.uniform(0.0, 0.35, 3)
    film = []
    for t in np.linspace(0, 1, frames):
        uncovered = ink * (np.linspace(0, 1, len(ink))[:, None] < 0.35 + 0.7 * t)
        moved = np.clip(shift(uncovered, start + t * (end - start), order=1), 0, 1)[..., None]
        film.append(np.clip(255 * (paper + moved * (pen - paper) + rng.normal(0, 0.02, 3)), 0, 255).astype(np.uint8))
    return film


def relief(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Depth of a plate into which the digit is carved, seen at a slant. Returns: (side, side) uint16 millimetres."""
    row, column = np.mgrid[-1 : 1 : 1j * len(ink), -1 : 1 : 1j * len(ink)]
    plane = rng.uniform(600, 1200) + rng.uniform(-25, 25) * row + rng.uniform(-25, 25) * column
    carved = gaussian_filter(ink, 0.6) * rng.uniform(60, 110)
    return (plane + carved + rng.normal(0, 3, ink.shape)).astype(np.uint16)


def warm_trace(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A warm finger drew the digit some seconds ago; it blurs and cools, what was drawn first the most.

    Returns: (side, side) uint16 hundredths of a kelvin.
    """
    age = rng.uniform(0.2, 1.0)
    cooled = 1 - 0.5 * age * np.linspace(1, 0, len(ink))[:, None]
    warmth = gaussian_filter(ink * cooled, 0.5 + 0.8 * age) * rng.uniform(2.5, 5.0)
    room = 294 + gaussian_filter(rng.normal(0, 1, ink.shape), 8) * 3
    return (100 * (room + warmth + rng.normal(0, 0.08, ink.shape))).astype(np.uint16)


def spoil(pictures: list[np.ndarray], share: float, rng: np.random.Generator, side: int = 4) -> list[np.ndarray]:
    """Noise in `share` of the squares of coloured pictures, in all of them the same squares, as of dirt on a lens."""
    tiles = pictures[0].shape[0] // side
    lost = rng.permutation(tiles * tiles).reshape(tiles, tiles) < share * tiles * tiles
    lost = np.kron(lost, np.ones((side, side), dtype=bool))[..., None]
    return [np.where(lost, rng.integers(0, 256, seen.shape), seen).astype(np.uint8) for seen in pictures]
