"""Signals of several channels over time (IMU, ECG and what else a sensor records), on a regular grid of time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np
from transformers import AutoFeatureExtractor, BatchFeature, PreTrainedConfig
from transformers.feature_extraction_utils import FeatureExtractionMixin

from ._arrays import NPY_MAGIC, check_windows, first_bad, load_npy, positive, to_numpy, windows
from ._base import ModalitySpec
from ._source import DEFAULT_LIMITS, Limits, MediaError, describe, head, is_array, open_source
from ._tables import Table, read_csv, read_parquet


_GAP_INTERVALS = 10  # of the recording's own median interval
_GAP_SECONDS = 0.25
_DECIMATION = 1.5  # from this ratio of rates on, an average replaces interpolation
_WRONG_UNIT = 100.0  # a recording this much slower than declared most likely has its time in another unit
_JITTER = 1e-3  # of a sampling interval; below it, readings are taken to stand on the grid


class SignalFeatureExtractor(FeatureExtractionMixin):
    """Brings recordings to one length: what is missing at the end is filled with zeros, what is too long is refused.

    Args:
        channels: names of the columns, in the order of the model's channels.
        sampling_rate: Hz.
        mean, std: per channel, subtracted and divided by; None to leave the units as they are.
        channels_first: give `(items, channels, samples)` instead of `(items, samples, channels)`.
    """

    model_input_names = ["input_values"]

    def __init__(
        self,
        channels: list[str] | tuple[str, ...] = (),
        sampling_rate: float = 1.0,
        num_samples: int = 1,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        channels_first: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.channels = list(channels)
        self.sampling_rate = sampling_rate
        self.num_samples = num_samples
        self.mean = mean
        self.std = std
        self.channels_first = channels_first

    def __call__(self, signals: list[np.ndarray], return_tensors: str | None = "pt", **kwargs) -> BatchFeature:
        """`signals`: arrays `(samples, channels)`. Returns float32 `input_values (items, samples, channels)`, unless
        `channels_first`."""
        batch = np.zeros((len(signals), self.num_samples, len(self.channels)), dtype=np.float32)
        mean = np.asarray(0 if self.mean is None else self.mean, dtype=np.float32)
        std = np.asarray(1 if self.std is None else self.std, dtype=np.float32)
        for row, signal in zip(batch, signals, strict=True):
            self.check_length(len(signal))
            row[: len(signal)] = (np.asarray(signal, dtype=np.float32) - mean) / std
        if self.channels_first:
            batch = batch.swapaxes(1, 2)
        return BatchFeature({"input_values": batch}, tensor_type=return_tensors)

    def check_length(self, samples: int) -> None:
        if samples > self.num_samples:
            raise MediaError(
                f"A recording of {samples} samples ({samples / self.sampling_rate:.2f} s), but the tower reads "
                f"{self.num_samples} ({self.num_samples / self.sampling_rate:.2f} s) and the rest would be lost. Cut "
                "it, give several, or compose with a larger `seconds` or with `windows`."
            )


class SignalConfig(PreTrainedConfig):
    """Stands for `SignalFeatureExtractor` in the table of AutoFeatureExtractor, whose keys are configs."""

    model_type = "anymodality_signal"


AutoFeatureExtractor.register(SignalConfig, SignalFeatureExtractor, exist_ok=True)


@dataclass(frozen=True, kw_only=True)
class SignalSpec(ModalitySpec):
    """
    Args:
        channels: names of the columns; say their units and axes beside them.
        sampling_rate: Hz; recordings with other or irregular time stamps are resampled to it.
        seconds: the longest recording; a tower whose config tells a `context_length` overrides it. One that tells
            `channels_first` gets its recordings so. With the option `windows`, this is the length of a window, and longer
        recordings are cut into that many at most, each `overlap` seconds into the one before.
    """

    channels: tuple[str, ...]
    sampling_rate: float
    seconds: float

    medium = "signal"
    processor_kind = "feature_extractor"
    suffixes = (".csv", ".npy", ".parquet")

    @property
    def options(self) -> dict[str, Any]:
        return {
            "sampling_rate": self.sampling_rate,
            "seconds": None,
            "channels_first": False,
            "mean": None,
            "std": None,
            "windows": None,
            "overlap": 0.0,
        }

    def default_processor(self, tower_config: PreTrainedConfig, options: dict[str, Any]) -> SignalFeatureExtractor:
        context = getattr(tower_config, "context_length", None)
        seconds = options["seconds"] or self.seconds
        fixed = options["seconds"] is None and isinstance(context, int)
        return SignalFeatureExtractor(
            channels=self.channels,
            sampling_rate=options["sampling_rate"],
            num_samples=context if fixed else round(seconds * options["sampling_rate"]),
            mean=options["mean"],
            std=options["std"],
            channels_first=options["channels_first"] or bool(getattr(tower_config, "channels_first", False)),
        )

    def is_item(self, value: Any) -> bool:
        """Rows of numbers are one recording."""
        rows = isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], (list, tuple))
        return not isinstance(value, (list, tuple)) or (rows and bool(value[0]) and isinstance(value[0][0], Number))

    def read(self, source: Any, processor: Any, options: dict[str, Any], **access) -> np.ndarray:
        channels = getattr(processor, "channels", None) or self.channels
        if isinstance(source, (list, tuple)):
            source = to_numpy(source, f"a list of {len(source)} rows")
        signal = read_signal(source, channels, processor.sampling_rate, **access)
        if hasattr(processor, "check_length") and self.most_frames(options) is None:
            processor.check_length(len(signal))
        return signal

    def adapted(self, processor: Any, options: dict[str, Any]) -> Any:
        check_windows(options, getattr(processor, "num_samples", None), processor)
        return processor

    def most_frames(self, options: dict[str, Any]) -> int | None:
        return options.get("windows")

    def frames(self, item: np.ndarray, processor: Any, options: dict[str, Any]) -> list[np.ndarray]:
        return windows(item, processor.num_samples, options, processor.sampling_rate)

    def share(self, frame: np.ndarray, processor: Any, options: dict[str, Any]) -> float:
        return len(frame) / processor.num_samples

    def dummy(self, processor: Any, options: dict[str, Any], size: int = 0) -> np.ndarray:
        samples = max(1, getattr(processor, "num_samples", 64) // (2 - size))
        channels = len(getattr(processor, "channels", None) or self.channels)
        return np.sin(np.arange(samples)[:, None] / 5 + np.arange(channels)).astype(np.float32)


def read_signal(
    source: Any,
    channels: Sequence[str],
    sampling_rate: float,
    *,
    max_gap: float | None = None,
    allow_urls: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> np.ndarray:
    """Read readings of named channels at a regular rate.

    With times, the readings are put on a regular grid that starts at the first of them. Each grid point is the
    linear interpolation between its neighbours; where the recording is more than 1.5 times denser than the grid, it
    is the average of that interpolation over one interval of the grid around the point (cut at the ends of the
    recording), as plain picking would fold fast changes into slow ones. Without times, the declared rate is assumed.

    Args:
        source: anything `open_source` takes, holding CSV, Parquet or `.npy`; an array or tensor of shape
            (T, channels); or a dict with `"values"` (or `"array"`), such an array, and either `"time"` (seconds per
            row) or `"sampling_rate"` (Hz). CSV and Parquet columns are found by name, whatever their case and
            order; others are ignored. A column `time`, `t`, `timestamp`, `time_s`, `timestamp_s` or `seconds` holds
            seconds, one `time_` or `timestamp_` + `ms`, `us` or `ns` that unit. A CSV without header must hold the
            channels alone, or one column of seconds before them.
        channels: names of the channels, in the order of the result.
        sampling_rate: Hz of the result.
        max_gap: longest time in seconds allowed between two readings, for interpolation would invent what lies
            between; by default 10 of the recording's own median intervals, and at least 0.25 s.
        allow_urls, limits: as `open_source` takes them.

    Returns:
        float32, shape (samples, len(channels)), in the units of the source.

    Raises:
        MediaError: unreadable, truncated, columns missing, values empty or not finite (row and column are named),
            times that do not increase or leave a gap, or beyond the limits.
        ImportError: pyarrow is missing and Parquet came.
    """
    names = _check_arguments(channels, sampling_rate, max_gap)
    name = describe(source)
    if isinstance(source, Mapping) and ("values" in source or "array" in source):
        values, seconds = _from_mapping(source, names, name)
    elif is_array(source):
        values, seconds = _columns(to_numpy(source, name), names, name), None
    elif isinstance(source, (list, tuple)):
        raise MediaError(f"{name}: expected a file, an array of shape (T, {len(names)}), or a dict with the values.")
    else:
        file = open_source(source, allow_urls=allow_urls, limits=limits)
        values, seconds = _from_file(file, names, sampling_rate, name, limits)
    _check_values(values, names, name)
    if seconds is None:
        limits.check_seconds(len(values) / sampling_rate, name)
        return np.ascontiguousarray(values, dtype=np.float32)
    _check_times(seconds, sampling_rate, max_gap, name, limits)
    return _regular(values, seconds, float(sampling_rate), name, limits)


def _check_values(values: np.ndarray, names: list[str], name: str) -> None:
    with np.errstate(over="ignore"):
        bad = first_bad(values.astype(np.float32))
    if bad is not None:
        raise MediaError(
            f"{name} holds {values[bad]} at row {bad[0]}, column {names[bad[1]]}: expected finite numbers within "
            "float32. Leave out or fill such rows."
        )


def _check_arguments(channels: Sequence[str], sampling_rate: float, max_gap: float | None) -> list[str]:
    if isinstance(channels, str) or not channels or not all(isinstance(channel, str) for channel in channels):
        raise MediaError(f"channels is {channels!r}, expected a sequence of names such as ['ax', 'ay', 'az'].")
    names = list(channels)
    if len({channel.strip().lower() for channel in names}) != len(names):
        raise MediaError(f"channels {names} repeats a name (case does not tell them apart).")
    positive(sampling_rate, "sampling_rate")
    if max_gap is not None:
        positive(max_gap, "max_gap")
    return names


def _columns(values: np.ndarray, names: list[str], name: str) -> np.ndarray:
    """float64 (T, channels)."""
    if values.ndim == 1 and len(names) == 1:
        values = values[:, None]
    if values.ndim != 2 or values.shape[1] != len(names):
        hint = ""
        if values.ndim == 2 and values.shape[0] == len(names):
            hint = " Transpose it: rows are moments, columns are channels."
        elif values.ndim == 2 and values.shape[1] == len(names) + 1:
            hint = ' Give a time column apart: {"values": ..., "time": ...}.'
        raise MediaError(
            f"{name} has shape {values.shape}, expected (T, {len(names)}) for the channels {', '.join(names)}.{hint}"
        )
    return values.astype(np.float64)


def _from_mapping(source: Mapping, names: list[str], name: str) -> Table:
    values = source["values"] if source.get("values") is not None else source.get("array")
    time, rate = source.get("time"), source.get("sampling_rate")
    if values is None or (time is None) == (rate is None):
        raise MediaError(f'{name}: expected "values" (or "array") and one of "time" and "sampling_rate".')
    columns = _columns(to_numpy(values, name), names, name)
    if rate is not None:
        return columns, np.arange(len(columns)) / positive(rate, f'"sampling_rate" of {name}')
    stamps = to_numpy(time, f'"time" of {name}')
    if stamps.shape != (len(columns),):
        raise MediaError(f'{name}: "time" has shape {stamps.shape}, expected ({len(columns)},), one per row.')
    stamps = stamps.astype(np.int64) if stamps.dtype.kind in "bu" else stamps
    return columns, (stamps - stamps[0]).astype(np.float64)


def _from_file(source: Any, names: list[str], sampling_rate: float, name: str, limits: Limits) -> Table:
    start = head(source, 16)
    if start[: len(NPY_MAGIC)] == NPY_MAGIC:
        return _columns(load_npy(source, name, limits), names, name), None
    if start[:4] == b"PAR1":
        return read_parquet(source, names, name, limits)
    if start[:4] == b"PK\x03\x04":
        raise MediaError(f"{name} is a zip archive (.npz, .xlsx?), expected CSV, .npy or Parquet.")
    return read_csv(source, names, sampling_rate, name, limits)


def _check_times(seconds: np.ndarray, rate: float, max_gap: float | None, name: str, limits: Limits) -> None:
    bad = first_bad(seconds)
    if bad is not None:
        raise MediaError(f"{name} has the time {seconds[bad]} at row {bad[0]}: expected finite times.")
    if len(seconds) < 2:
        return
    steps = np.diff(seconds)
    if steps.min() <= 0:
        row = int(np.argmax(steps <= 0)) + 1
        raise MediaError(
            f"{name}: the time of row {row} ({seconds[row]:.9g} s after the first) does not come after that of row "
            f"{row - 1} ({seconds[row - 1]:.9g} s): sort the rows and drop repeated ones."
        )
    limits.check_seconds(float(seconds[-1]), name)
    median = float(np.median(steps))
    if median * rate >= _WRONG_UNIT:
        raise MediaError(
            f"{name} has one row per {median:.6g} s, expected about {1 / rate:.6g} s at {rate:g} Hz: its times look "
            "like another unit; name the column time_ms, time_us or time_ns accordingly."
        )
    allowed = max(_GAP_INTERVALS * median, _GAP_SECONDS) if max_gap is None else max_gap
    if steps.max() > allowed:
        row = int(np.argmax(steps > allowed))
        raise MediaError(
            f"{name} has a gap of {steps[row]:.6g} s between rows {row} and {row + 1} ({seconds[row]:.6g} s and "
            f"{seconds[row + 1]:.6g} s after the first), more than the {allowed:.6g} s allowed: split the recording "
            "there, or pass max_gap=... if a straight line across it will do."
        )


def _regular(values: np.ndarray, seconds: np.ndarray, rate: float, name: str, limits: Limits) -> np.ndarray:
    """Readings on the grid k / rate, shape (samples, channels), float32."""
    count = math.floor(seconds[-1] * rate + _JITTER) + 1
    limits.check("max_bytes", count * values.shape[1] * 8, f"{name} needs {count} samples at {rate:g} Hz")
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
    level = values.mean(axis=0)  # taken off for the sums, so that a large constant costs no precision
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
