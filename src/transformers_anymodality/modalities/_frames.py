"""Which frames of a video are taken: by time, within the limits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ._source import Limits, MediaError
from .image import check_pixels


if TYPE_CHECKING:
    pass


_ROUNDING = 1e-6  # seconds


def frame_times(begin: float, end: float, num_frames: int) -> np.ndarray:
    """Mid-points of `num_frames` equal parts of the duration [begin, end).

    Args:
        begin: seconds at which the first frame comes on display.
        end: seconds at which the last one goes off; at least `begin`.
        num_frames: how many times to give, at least 1.

    Returns:
        float64, shape (num_frames,), in seconds, increasing.

    Raises:
        MediaError: no frames asked for, or a duration that is negative or not finite.
    """
    _check_count(num_frames)
    if not (math.isfinite(begin) and math.isfinite(end) and begin <= end):
        raise MediaError(f"A video from {begin} s to {end} s has no duration: expected finite times, begin <= end.")
    return begin + (np.arange(num_frames) + 0.5) * ((end - begin) / num_frames)


def query_times(begin: float, end: float, num_frames: int) -> np.ndarray:
    """`frame_times`, a microsecond later, so that a time on the very border of two frames gets the later frame.

    Without it the rounding of time stamps to seconds decides, and backends differ.
    """
    return frame_times(begin, end, num_frames) + min(_ROUNDING, (end - begin) / num_frames / 4)


def _check_count(num_frames: int) -> None:
    if isinstance(num_frames, bool) or not isinstance(num_frames, (int, np.integer)) or num_frames < 1:
        raise MediaError(f"num_frames is {num_frames!r}, expected a positive integer.")


def check_duration(seconds: float | None, name: str, limits: Limits) -> None:
    """Raise `MediaError` for a video longer than `limits.max_seconds`."""
    if seconds is not None and not seconds <= limits.max_seconds:
        raise MediaError(
            f"{name} lasts {seconds:.6g} s, more than the limit of {limits.max_seconds:g} s: cut it, or pass "
            "limits=Limits(max_seconds=...) if you trust it."
        )


def check_frame_count(count: int, name: str, limits: Limits) -> None:
    """Raise `MediaError` for a video of more than `limits.max_frames` frames."""
    if count > limits.max_frames:
        raise MediaError(
            f"{name} has {count} frames or more, above the limit of {limits.max_frames}: cut it, or pass "
            "limits=Limits(max_frames=...) if you trust it."
        )


def check_output(num_frames: int, width: int, height: int, name: str, limits: Limits) -> None:
    """Raise `MediaError` for a frame size beyond the limits, or frames that would not fit `limits.max_bytes`."""
    check_pixels(width, height, name, limits)
    if num_frames * width * height * 3 > limits.max_bytes:
        raise MediaError(
            f"{name}: {num_frames} frames of {width} x {height} pixels need {num_frames * width * height * 3} bytes, "
            f"more than the limit of {limits.max_bytes}: ask for fewer frames, or scale the video down."
        )
