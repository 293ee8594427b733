"""Resamples readings at any times to a regular grid."""

import math

import numpy as np

from ._source import Limits


_DECIMATION = 1.5  # from this ratio of rates on, an average replaces interpolation
_JITTER = 1e-3  # of a sampling interval; with less jitter, readings count as already on the grid


def regular(values: np.ndarray, seconds: np.ndarray, rate: float, name: str, limits: Limits) -> np.ndarray:
    """Readings on the grid k / rate, shape (samples, channels), float32."""
    count = math.floor(seconds[-1] * rate + _JITTER) + 1
    limits.check("max_bytes", count * values.shape[1] * 8, lambda: f"{name} needs {count} samples at {rate:g} Hz")
    grid = np.arange(count) / rate
    if count == len(seconds) and np.abs(seconds - grid).max() * rate <= _JITTER:
        return np.ascontiguousarray(values, dtype=np.float32)
    own_rate = (len(seconds) - 1) / seconds[-1]
    if own_rate > _DECIMATION * rate:
        result = _averages(values, seconds, grid, 1.0 / rate)
    else:
        result = np.stack([np.interp(grid, seconds, column) for column in values.T], axis=1)
    return np.ascontiguousarray(result, dtype=np.float32)


def _averages(values: np.ndarray, seconds: np.ndarray, grid: np.ndarray, width: float) -> np.ndarray:
    """Averages of the piecewise linear signal over `width` around each grid point, by its exact integral."""
    steps = np.diff(seconds)[:, None]
    level = values.mean(axis=0)  # subtracted for the sums, so that a large constant costs no precision
    values = values - level
    integral = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(steps * (values[1:] + values[:-1]) / 2, 0)])

    def integrate_to(moments: np.ndarray) -> np.ndarray:
        piece = np.clip(np.searchsorted(seconds, moments, side="right") - 1, 0, len(seconds) - 2)
        past = (moments - seconds[piece])[:, None]
        slope = (values[piece + 1] - values[piece]) / steps[piece]
        return integral[piece] + past * values[piece] + past**2 * slope / 2

    begin = np.maximum(grid - width / 2, seconds[0])
    end = np.minimum(grid + width / 2, seconds[-1])
    return level + (integrate_to(end) - integrate_to(begin)) / (end - begin)[:, None]
