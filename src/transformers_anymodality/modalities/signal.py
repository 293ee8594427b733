"""Signals of several channels over time (IMU, ECG and other sensors), on a regular time grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoFeatureExtractor, BatchFeature, PreTrainedConfig
from transformers.feature_extraction_utils import FeatureExtractionMixin

from ..utils.checked import ConfigError, check_fields
from ._arrays import NPY_MAGIC, check_windows, first_bad, load_npy, positive, to_numpy, windows
from ._base import ModalitySpec
from ._columns import Channel, check_units
from ._grid import regular
from ._source import DEFAULT_LIMITS, Limits, MediaError, describe, head, is_array, open_source
from ._tables import Table, read_csv, read_parquet
from ._wfdb import header_of, read_wfdb


_GAP_INTERVALS = 10  # of the recording's own median interval
_GAP_SECONDS = 0.25
_WRONG_UNIT = 100.0  # a recording this much slower than declared most likely has its time in another unit
_WRONG_GUESS = 10.0  # the same, if seconds were only assumed


_SETTINGS: dict[str, Any] = {"channels": list[str], "sampling_rate": float, "num_samples": int, "channels_first": bool}
_SETTINGS |= dict.fromkeys(("mean", "std"), float | list[float] | None)


class SignalFeatureExtractor(FeatureExtractionMixin):
    """Pads recordings with zeros at the end to one length; longer ones are an error.

    Args:
        channels: names of the columns, in the order of the model's channels.
        sampling_rate: Hz.
        mean, std: per channel, for normalisation; None leaves the units unchanged.
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
        given = {"channels": list(channels), "sampling_rate": sampling_rate, "num_samples": num_samples}
        given |= {"channels_first": channels_first, "mean": mean, "std": std}
        check_fields(type(self).__name__, given, _SETTINGS, {"num_samples": 1})
        if not sampling_rate > 0:
            raise ConfigError(f"`{type(self).__name__}.sampling_rate` is {sampling_rate}; it must be above 0.")
        if 0 in (std if isinstance(std, list) else [std]):
            raise ConfigError(f"`{type(self).__name__}.std` is {std}; values are divided by it, so it must not be 0.")
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
                f"{self.num_samples} ({self.num_samples / self.sampling_rate:.2f} s) and would drop the rest. Cut "
                "it into several files, or compose with a larger `seconds` or with `windows`."
            )


class SignalConfig(PreTrainedConfig):
    """The key of `SignalFeatureExtractor` in the table of AutoFeatureExtractor, which needs configs as keys."""

    model_type = "anymodality_signal"


AutoFeatureExtractor.register(SignalConfig, SignalFeatureExtractor, exist_ok=True)


@dataclass(frozen=True, kw_only=True)
class SignalSpec(ModalitySpec):
    """
    Args:
        channels: names of the columns; document their units and axes.
        sampling_rate: Hz; recordings with other or irregular time stamps are resampled to it.
        units: unit of each channel, such as "m/s^2", "rad/s", "mV"; none if left out. Columns with another unit of the same
            quantity in their titles are converted.
        aliases: for each channel, a pattern of other names of columns; see `_columns.plain`.
        seconds: the longest recording; `context_length` in a tower's config overrides it, and `channels_first` there sets
            the order of axes. With the option `windows`, this is the length of a window, and longer recordings are cut
            into at most that many windows; each overlaps the one before by `overlap` seconds.
    """

    channels: tuple[str, ...]
    sampling_rate: float
    seconds: float
    units: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

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
        names = getattr(processor, "channels", None) or self.channels
        none = (None,) * len(self.channels)
        known = {one.name: one for one in map(Channel, self.channels, self.units or none, self.aliases or none)}
        channels = [known.get(name, name) for name in names]
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

    def share(self, frame: np.ndarray, processor: Any, options: dict[str, Any]) -> Fraction:
        return Fraction(len(frame), processor.num_samples)

    def dummy(self, processor: Any, options: dict[str, Any], size: int = 0) -> np.ndarray:
        samples = max(1, getattr(processor, "num_samples", 64) // (2 - size))
        channels = len(getattr(processor, "channels", None) or self.channels)
        return np.sin(np.arange(samples)[:, None] / 5 + np.arange(channels)).astype(np.float32)


def read_signal(
    source: Any,
    channels: Sequence[str | Channel],
    sampling_rate: float,
    *,
    max_gap: float | None = None,
    allow_urls: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> np.ndarray:
    """Reads the readings of named channels at a regular rate.

    With times, the readings are put on a regular grid that starts at the first of them. Each grid point is the
    linear interpolation between its neighbours. If the recording is more than 1.5 times denser than the grid, it is
    the average of that interpolation over one grid interval around the point (cut at the ends of the recording),
    because single values would turn fast changes into slow ones. Without times, the declared rate is assumed.

    Args:
        source: any source of `open_source` with CSV, Parquet or `.npy`; the path of a WFDB record; an array of shape
            (T, channels), or (channels, T) if the two differ; a dict with `"values"`, such an array, and `"time"`
            (seconds per row) or `"sampling_rate"` (Hz); or `{"files": [...]}`, each with some of the channels and times of
            one clock. Columns and times (`Timestamp (ms)`, `seconds_elapsed`) are found by name. Times have the unit in
            their title, else the unit of an epoch time, else seconds. A CSV without header holds only the channels, or
            times and then the channels.
        channels: in the order of the result, each a name, or a `Channel` with its unit and other names. If a channel has a
            unit, columns in another unit of the quantity are converted.
        sampling_rate: Hz of the result.
        max_gap: longest allowed time in seconds between two readings, because interpolation would invent the values
            between; by default 10 of the recording's own median intervals, and at least 0.25 s.
        allow_urls, limits: as in `open_source`.

    Returns:
        float32, shape (samples, len(channels)), in the units of the source.

    Raises:
        MediaError: unreadable, truncated, missing columns, values that are empty or not finite (at the named row and
            column), times that do not increase or leave a gap, or beyond the limits.
        ImportError: pyarrow is missing for Parquet, or wfdb for a WFDB record.
    """
    wanted = _check_arguments(channels, sampling_rate, max_gap)
    names, name = [channel.name for channel in wanted], describe(source)
    if isinstance(source, Mapping) and ("values" in source or "array" in source):
        table = _from_mapping(source, names, name)
    elif is_array(source):
        table = Table(_columns(to_numpy(source, name), names, name))
    elif isinstance(source, Mapping) and source.get("files"):
        opened = {describe(one): open_source(one, allow_urls=allow_urls, limits=limits) for one in source["files"]}
        table = _joined(opened, wanted, sampling_rate, max_gap, limits)
    elif isinstance(source, (list, tuple)):
        raise MediaError(f"{name}: expected a file, an array of shape (T, {len(names)}), or a dict with the values.")
    else:
        file = open_source(source, allow_urls=allow_urls, limits=limits)
        table = _from_file(file, wanted, sampling_rate, name, limits)
    values, seconds = table.values, table.seconds
    _check_values(values, names, name)
    check_units(
        values, [channel for channel, unsaid in zip(wanted, table.unsaid, strict=False) if unsaid], wanted, name
    )
    if seconds is None:
        limits.check_seconds(len(values) / sampling_rate, name)
        return np.ascontiguousarray(values, dtype=np.float32)
    _check_times(table, sampling_rate, max_gap, name, limits)
    return regular(values, seconds, float(sampling_rate), name, limits)


def _check_values(values: np.ndarray, names: list[str], name: str) -> None:
    with np.errstate(over="ignore"):
        bad = first_bad(values.astype(np.float32))
    if bad is not None:
        raise MediaError(
            f"{name} holds {values[bad]} at row {bad[0]}, column {names[bad[1]]}: expected finite numbers within "
            "float32. Leave out or fill such rows."
        )


def _check_arguments(channels: Sequence[str | Channel], sampling_rate: float, max_gap: float | None) -> list[Channel]:
    if isinstance(channels, str) or not channels or not all(isinstance(one, (str, Channel)) for one in channels):
        raise MediaError(f"channels is {channels!r}, expected a sequence of names such as ['ax', 'ay', 'az'].")
    wanted = [Channel(one) if isinstance(one, str) else one for one in channels]
    if len({channel.name.strip().lower() for channel in wanted}) != len(wanted):
        raise MediaError(
            f"channels {[one.name for one in wanted]} repeats a name (upper and lower case are the same)."
        )
    positive(sampling_rate, "sampling_rate")
    if max_gap is not None:
        positive(max_gap, "max_gap")
    return wanted


def _columns(values: np.ndarray, names: list[str], name: str) -> np.ndarray:
    """float64 (T, channels)."""
    if values.ndim == 1 and len(names) == 1:
        values = values[:, None]
    if values.ndim == 2 and values.shape[0] == len(names) != 1:
        if values.shape[1] == len(names):
            raise MediaError(
                f"{name} has shape {values.shape}: either axis could be the {len(names)} channels. Give more rows, or a "
                "table with a header."
            )
        values = values.T
    if values.ndim != 2 or values.shape[1] != len(names):
        hint = ""
        if values.ndim == 2 and values.shape[1] == len(names) + 1:
            hint = ' Give a time column apart: {"values": ..., "time": ...}.'
        raise MediaError(
            f"{name} has shape {values.shape}, expected (T, {len(names)}) or ({len(names)}, T) for the channels "
            f"{', '.join(names)}.{hint}"
        )
    return values.astype(np.float64)


def _from_mapping(source: Mapping, names: list[str], name: str) -> Table:
    values = source["values"] if source.get("values") is not None else source.get("array")
    time, rate = source.get("time"), source.get("sampling_rate")
    if values is None or (time is None) == (rate is None):
        raise MediaError(f'{name}: expected "values" (or "array") and one of "time" and "sampling_rate".')
    columns = _columns(to_numpy(values, name), names, name)
    if rate is not None:
        return Table(columns, np.arange(len(columns)) / positive(rate, f'"sampling_rate" of {name}'))
    stamps = to_numpy(time, f'"time" of {name}')
    if stamps.shape != (len(columns),):
        raise MediaError(f'{name}: "time" has shape {stamps.shape}, expected ({len(columns)},), one per row.')
    stamps = stamps.astype(np.int64) if stamps.dtype.kind in "bu" else stamps
    return Table(columns, (stamps - stamps[0]).astype(np.float64))


def _joined(
    files: dict[str, Any], channels: list[Channel], rate: float, max_gap: float | None, limits: Limits
) -> Table:
    """One table from several files, at the times of the first."""
    tables = {name: _from_file(file, channels, rate, name, limits, some=True) for name, file in files.items()}
    found = [title for table in tables.values() for title in table.names]
    names, where = [channel.name for channel in channels], " and ".join(tables)
    if sorted(found) != sorted(names):
        raise MediaError(f"{where} have the channels {', '.join(found)}, expected {', '.join(names)}, each once.")
    for name, table in tables.items():
        if table.seconds is None:
            raise MediaError(f"{name} has no column of times, which is needed to join it with the other files.")
        _check_times(table, rate, max_gap, name, limits)
    clocks = [table.start + table.seconds for table in tables.values() if table.seconds is not None]
    begin, end = max(clock[0] for clock in clocks), min(clock[-1] for clock in clocks)
    moments = clocks[0][(clocks[0] >= begin) & (clocks[0] <= end)]
    if not len(moments):
        raise MediaError(
            f"{where} have no time in common: the latest begins at {begin:.9g} s, the first ends at {end:.9g} s."
        )
    columns = {
        name: (np.interp(moments, clock, column), unsaid)
        for table, clock in zip(tables.values(), clocks, strict=True)
        for name, column, unsaid in zip(table.names, table.values.T, table.unsaid, strict=True)
    }
    values = np.stack([columns[name][0] for name in names], axis=1)
    return Table(values, moments - moments[0], moments[0], [columns[name][1] for name in names], names)


def _from_file(
    source: Any, channels: list[Channel], sampling_rate: float, name: str, limits: Limits, some: bool = False
) -> Table:
    if isinstance(source, Path) and (header := header_of(source)) is not None:
        return read_wfdb(header, channels, name, limits)
    start = head(source, 16)
    if start[: len(NPY_MAGIC)] == NPY_MAGIC:
        return Table(_columns(load_npy(source, name, limits), [channel.name for channel in channels], name))
    if start[:4] == b"PAR1":
        return read_parquet(source, channels, name, limits, some)
    if start[:4] == b"PK\x03\x04":
        raise MediaError(f"{name} is a zip archive (.npz, .xlsx?), expected CSV, .npy or Parquet.")
    return read_csv(source, channels, sampling_rate, name, limits, some)


def _check_times(table: Table, rate: float, max_gap: float | None, name: str, limits: Limits) -> None:
    seconds: Any = table.seconds
    bad = first_bad(seconds)
    if bad is not None:
        raise MediaError(f"{name} has the time {seconds[bad]} at row {bad[0]}: expected finite times.")
    if len(seconds) < 2:
        return
    steps = np.diff(seconds)
    if steps.min() <= 0:
        row = int(np.argmax(steps <= 0)) + 1
        raise MediaError(
            f"{name}: the time of row {row} ({seconds[row]:.9g} s after the first) is not later than that of row "
            f"{row - 1} ({seconds[row - 1]:.9g} s): sort the rows and drop repeated ones."
        )
    limits.check_seconds(float(seconds[-1]), name)
    median = float(np.median(steps))
    if median * rate >= (_WRONG_GUESS if table.guessed else _WRONG_UNIT):
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
            "there, or pass max_gap=... to accept a straight line across it."
        )
