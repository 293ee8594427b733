"""Arrays, tensors, numbers and `.npy` files: conversion to numpy, and checks of their values."""

import math
import sys
from collections.abc import Mapping
from io import BytesIO
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.checked import ConfigError
from ._source import Limits, MediaError, opened


NPY_MAGIC = b"\x93NUMPY"


def to_numpy(source: Any, name: str) -> np.ndarray:
    """A numpy array of real numbers from an array, a tensor on any device, or nested lists. Raises `MediaError` if it
    is ragged, empty, complex, or does not hold numbers."""
    if hasattr(source, "detach"):
        source = source.detach().cpu()
        # numpy has neither bfloat16 nor torch's 8-bit floats
        source = source.float() if source.is_floating_point() and source.element_size() < 4 else source
    try:
        array = np.asarray(source)
    except (ValueError, TypeError, RuntimeError) as error:
        raise MediaError(f"{name} cannot be converted to an array: {error}.") from error
    if array.dtype.kind not in "buif":
        raise MediaError(f"{name} holds {array.dtype}, expected real numbers.")
    if array.size == 0:
        raise MediaError(f"{name} is empty (shape {array.shape}).")
    return array


def positive(value: Any, name: str, unit: str = "") -> float:
    """The number; raises `MediaError` if it is not positive and finite."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value <= sys.float_info.max:
        raise MediaError(f"{name} is {value!r}, expected a positive number{unit}.")
    return float(value)


def first_bad(array: np.ndarray) -> tuple[int, ...] | None:
    """Index of the first NaN or infinity in row-major order, or None."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum()):  # much faster than a check of each value
            return None
    bad = ~np.isfinite(array)
    return tuple(np.argwhere(bad)[0].tolist()) if bad.any() else None


def windows(values: np.ndarray, length: int, options: Mapping[str, Any], rate: float) -> list[np.ndarray]:
    """Pieces of `length` along the first axis; each overlaps the one before by `overlap` seconds; the last may be shorter.

    Args:
        options: `windows`, the maximum number of windows, and `overlap`.
        rate: of values, in Hz.

    Raises:
        MediaError: there would be more windows.
        ConfigError: `windows` is not set.
    """
    most, overlap = options["windows"], options.get("overlap") or 0.0
    if most is None:
        raise ConfigError(
            "`num_frames` is None, so that recordings are cut, but `options.windows` is not set: set one."
        )
    step = length - round(overlap * rate)
    count = 1 + max(0, -((length - len(values)) // step))
    if count > most:
        raise MediaError(
            f"{len(values) / rate:.1f} s are {count} windows of {length / rate:.1f} s, but the model takes {most}, "
            f"{(length + (most - 1) * step) / rate:.1f} s. Cut the recording, give several, or compose with more `windows`."
        )
    return [values[start * step : start * step + length] for start in range(count)]


def check_windows(options: Mapping[str, Any], length: int | None, processor: Any) -> None:
    """Raises ValueError if `windows` and `overlap` do not fit a sub-processor with a window of `length` values (None: it
    has no window)."""
    most, overlap = options.get("windows"), options.get("overlap") or 0.0
    if most is None and not overlap:
        return
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise ValueError(f"windows is {most!r}; it must be an integer of at least 1.")
    if length is None:
        raise ValueError(
            f"{type(processor).__name__} reads recordings of any length, and has no windows: leave out `windows`."
        )
    if not 0 <= round(overlap * processor.sampling_rate) < length:
        seconds = length / processor.sampling_rate
        raise ValueError(f"overlap is {overlap!r}; it must be from 0 to below the {seconds:g} seconds of a window.")


def load_npy(source: Path | BytesIO, name: str, limits: Limits) -> np.ndarray:
    """The numbers of a `.npy` file; nothing is ever unpickled. Before memory is allocated, the header is checked against
    the limits and the size of the file. Raises `MediaError` for a file that is not a `.npy` file, is truncated, is larger
    than `limits.max_bytes`, or does not hold numbers."""
    with opened(source) as file:
        length = file.seek(0, 2)
        file.seek(0)
        try:
            numpy = np.lib.format
            first = numpy.read_magic(file) == (1, 0)
            shape, _, dtype = (numpy.read_array_header_1_0 if first else numpy.read_array_header_2_0)(file)
            if dtype.kind not in "buif":
                raise MediaError(f"{name} holds {dtype}, expected plain real numbers (nothing is ever unpickled).")
            if not shape or not all(type(count) is int and count >= 0 for count in shape):
                raise MediaError(f"{name} has the shape {shape}, expected integers for one axis or more.")
            size, there = math.prod(shape) * dtype.itemsize, length - file.tell()
            limits.check("max_bytes", size, lambda: f"{name} holds {size} bytes of numbers")
            if size > there:
                raise MediaError(
                    f"{name} is truncated: its header promises {size} bytes of numbers, but {there} follow."
                )
            if size < there:
                raise MediaError(f"{name} holds {there - size} bytes after its numbers: save one array per file.")
            file.seek(0)
            return to_numpy(np.load(file, allow_pickle=False), name)
        except MediaError:
            raise
        except Exception as error:  # numpy's parser of headers raises the errors of Python's parser
            reason = str(error).partition("\n")[0]
            raise MediaError(f"{name} is not a readable .npy file ({type(error).__name__}: {reason}).") from error
