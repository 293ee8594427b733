"""Tables of sensor readings (CSV, Parquet): finds columns by name and reads them as numbers."""

import csv
import io
import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal, InvalidOperation
from functools import partial
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..utils.imports import require
from ._columns import Channel, Clock, Columns, epoch_unit, find_columns
from ._source import Limits, MediaError, opened


_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}  # in seconds
_TELLING = 10  # with so many rows, a rising column is not chance
_AGREE = 0.02  # share of a recording's duration by which two of its clocks may differ

_Number = TypeVar("_Number", float, Decimal)


class Table(NamedTuple):
    """Recorded readings."""

    values: np.ndarray  # float64 (rows, channels), in the channels' units
    seconds: np.ndarray | None = None  # of each row after the first, float64 (rows,); None without times
    start: float = 0.0  # seconds of the first row on the recording's own clock
    unsaid: Sequence[bool] = ()  # for each channel, whether its title has no unit
    names: Sequence[str] = ()  # the channels' names
    guessed: bool = False  # whether the unit of the times is unknown and taken as seconds


def read_csv(
    source: Path | BytesIO,
    channels: Sequence[Channel],
    sampling_rate: float,
    name: str,
    limits: Limits,
    some: bool = False,
) -> Table:
    """Reads a CSV (comma, semicolon, tab or spaces) with a header row, or a numeric one with only the channels. Lines before
    it that begin with `#`, and Excel's `sep=`, are skipped. `some`: channels may be missing, but not all. Raises
    `MediaError`: not text, missing columns, a cell that is not a finite number, a row of another length (such as a
    truncated last line), times that contradict each other or have no title, or more than `limits.max_seconds`."""
    stem = source.stem if isinstance(source, Path) else ""
    with opened(source) as binary:
        text = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
        try:
            return _parse_csv(text, channels, sampling_rate, name, stem, limits, some)
        except UnicodeDecodeError as error:
            raise MediaError(f"{name} is not UTF-8 text ({error}): expected CSV, .npy or Parquet.") from error
        except csv.Error as error:
            raise MediaError(f"{name} is not a readable CSV: {error}.") from error
        finally:
            text.detach()


def _rows(text: io.TextIOWrapper, name: str) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The first row, and all others with their line numbers."""
    remark, line, count = "", text.readline(1 << 16), 1
    while line.startswith("#") or line[:4].lower() == "sep=" or (line and not line.strip()):
        remark = line.lstrip("# ") if line.startswith("#") else remark
        line, count = text.readline(1 << 16), count + 1
    if "\0" in line:
        raise MediaError(f"{name} is binary: expected CSV, .npy or Parquet.")
    separator = max(",;\t", key=line.count)
    separator = separator if separator in line else " " if " " in line.strip() else ","
    reader = csv.reader(chain([line], text), delimiter=separator, skipinitialspace=separator == " ")
    rows = (
        (reader.line_num + count - 1, row[:-1] if separator == " " and not row[-1] else row)
        for row in reader
        if any(cell.strip() for cell in row)
    )
    first = [cell.strip() for cell in next(rows, (0, []))[1]]
    if not first:
        raise MediaError(f"{name} holds no rows: expected a header row and readings.")
    titles = [cell.strip() for cell in next(csv.reader([remark], delimiter=separator, skipinitialspace=True), [])]
    if all(map(_is_number, first)) and len(titles) == len(first):  # a header after `#`, as numpy writes it
        return titles, chain([(count, first)], rows)
    return first, rows


def _parse_csv(
    text: io.TextIOWrapper,
    channels: Sequence[Channel],
    sampling_rate: float,
    name: str,
    stem: str,
    limits: Limits,
    some: bool,
) -> Table:
    titles, rows = _rows(text, name)
    if all(map(_is_number, titles)):
        extra = len(titles) - len(channels)
        if extra not in (0, 1):
            raise MediaError(
                f"{name} has no header row and {len(titles)} columns, expected {len(channels)} "
                f"({', '.join(channel.name for channel in channels)}) or a time column before them: add a header row."
            )
        rows = chain([(1, titles)], rows)
        titles = ["time"] * extra + [channel.name for channel in channels]
    columns = find_columns(titles, channels, name, stem, some)
    values, seconds = array("d"), array("d")
    watch = None
    for row_number, (line, cells) in enumerate(rows):
        where = f"{name}, data row {row_number} (line {line})"
        if len(cells) == len(titles) + 1 and not cells[-1].strip():
            cells = cells[:-1]  # a separator follows the last cell, too
        if len(cells) != len(titles):
            raise MediaError(
                f"{where} has {len(cells)} cells, expected {len(titles)}: the file may be truncated there, or numbers "
                "contain the cell separator."
            )
        for place in columns.places:
            hint = "decimals need a point" if cells[place].strip() else "leave out or fill rows with missing values"
            values.append(_finite(float, cells[place], f"{where}, column {titles[place]}", "number", hint))
        watch = watch or _Watch(titles, columns, cells, name, where)
        elapsed = watch.read(cells, where)
        if elapsed is not None:
            seconds.append(elapsed)
        elapsed = row_number / sampling_rate if elapsed is None else elapsed
        limits.check("max_seconds", elapsed, partial("{} is {:.6g} s after the first".format, where, elapsed))
    if watch is None:
        raise MediaError(f"{name} has a header row and no readings.")
    watch.check()
    table = np.frombuffer(values, np.float64).reshape(-1, len(columns.places)) * columns.factors
    times = np.frombuffer(seconds, np.float64) if watch.clocks else None
    return Table(table, times, watch.start, columns.unsaid, _names(columns), watch.guessed)


class _Watch:
    """Reads the times of rows from the first readable clock. Then the other clocks must agree on the duration. Without a
    clock, no column may look like one."""

    def __init__(self, titles: list[str], columns: Columns, cells: list[str], name: str, where: str):
        self.titles, self.name, self.rows = titles, name, 0
        self.clocks = [one for one in columns.clocks if all(_is_number(cells[place]) for place in one.places)]
        self.clocks = self.clocks or columns.clocks[:1]  # its times are not numbers: an error follows
        self.first = self.last = cells
        self.units = [self._units(clock) for clock in self.clocks]
        self.guessed = bool(self.clocks) and None in self.units[0]
        self.begin = self._moment(0, cells, where) if self.clocks else Decimal(0)
        self.start = float(self.begin)
        spare = set(range(len(titles))) - set(columns.places) if not self.clocks else ()
        self.rising = dict.fromkeys(spare, -math.inf)  # columns that rose with every row so far

    def _units(self, clock: Clock) -> tuple[float | None, ...]:
        units = clock.units
        if units == (None,) and _is_number(cell := self.first[clock.places[0]]):
            units = (epoch_unit(float(cell)),)
        return units

    def _moment(self, number: int, cells: list[str], where: str) -> Decimal:
        # Epoch times in nanoseconds have more digits than a float; only their differences become floats.
        clock, units = self.clocks[number], self.units[number]
        moment = Decimal(0)
        for place, unit in zip(clock.places, units, strict=True):
            cell = f"{where}, column {self.titles[place]}"
            value = _finite(Decimal, cells[place], cell, "time", "a plain number, not a date")
            moment += value * Decimal(repr(unit or 1.0))
        return moment

    def read(self, cells: list[str], where: str) -> float | None:
        """Seconds of a row after the first."""
        self.rows, self.last = self.rows + 1, cells
        for place, before in list(self.rising.items()):
            value = float(cells[place]) if _is_number(cells[place]) else -math.inf
            if value > before:
                self.rising[place] = value
            else:
                del self.rising[place]
        return float(self._moment(0, cells, where) - self.begin) if self.clocks else None

    def check(self) -> None:
        spans = {
            clock.title: float(
                self._moment(number, self.last, self.name) - self._moment(number, self.first, self.name)
            )
            for number, clock in enumerate(self.clocks)
            if all(_is_number(self.last[place]) for place in clock.places)
        }
        _check_spans(spans, self.rows, self.name)
        for place, last in self.rising.items():
            _check_rising(self.titles[place], float(self.first[place]), last, self.rows, self.name)


def _check_spans(spans: dict[str, float], rows: int, name: str) -> None:
    """`spans`: title -> seconds from the first row to the last, of each clock."""
    for title, span in spans.items():
        first = next(iter(spans))
        if abs(span - spans[first]) > abs(spans[first]) * (_AGREE + 2 / rows):
            raise MediaError(
                f"{name} has time columns that contradict each other: by {first} it lasts {spans[first]:.6g} s, by "
                f"{title} {span:.6g} s. Keep one of them, or put the unit into its title."
            )


def _check_rising(title: str, first: float, last: float, rows: int, name: str) -> None:
    if rows >= _TELLING and last - first != rows - 1:  # row numbers are not times
        raise MediaError(
            f"{name} has no column of times, but {title!r} rises with every row: if it holds times, name it time_s, "
            "time_ms, time_us or time_ns; otherwise leave it out."
        )


def _finite(kind: Callable[[str], _Number], cell: str, where: str, what: str, hint: str) -> _Number:
    try:
        value = kind(cell.strip())
        finite = math.isfinite(value)
    except (ValueError, InvalidOperation):
        raise MediaError(f"{where} holds {cell!r}, expected a {what}: {hint}.") from None
    if not finite:
        raise MediaError(f"{where} holds {cell!r}, expected a finite {what}: leave out or fill such rows.")
    return value


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _names(columns: Columns) -> list[str]:
    return [channel.name for channel in columns.channels]


def read_parquet(
    source: Path | BytesIO, channels: Sequence[Channel], name: str, limits: Limits, some: bool = False
) -> Table:
    """Reads a Parquet file with the same rules for columns; a time column of Arrow's timestamp type has its own unit.
    Raises `MediaError`: unreadable, missing columns, empty cells, not numbers, or beyond `limits.max_bytes`;
    `ImportError` without pyarrow."""
    parquet = require("pyarrow.parquet")
    try:
        with opened(source) as file, parquet.ParquetFile(file) as table:
            rows = table.metadata.num_rows
            found = table.schema_arrow.names
            stem = source.stem if isinstance(source, Path) else ""
            columns = find_columns(found, channels, name, stem, some)
            wanted = [found[place] for place in columns.places]
            counted = [title for title in found if _is_counted(table.schema_arrow.field(title).type)]
            clocks = [one for one in columns.clocks if all(found[place] in counted for place in one.places)]
            clocks = clocks or columns.clocks[:1]  # its times are not numbers: an error follows
            times = [found[place] for clock in clocks for place in clock.places]
            spare = [] if times else [title for title in counted if title not in wanted]
            read = [*wanted, *times, *spare]
            limits.check("max_bytes", rows * 8 * len(read), lambda: f"{name} has {rows} rows")
            # A text cell may have any length, even in a short file.
            for title in read:
                _check_numbers(table.schema_arrow.field(title).type, title, name)
            if rows == 0:
                raise MediaError(f"{name} holds no rows.")
            data = table.read(columns=read, use_threads=False)
    except (MediaError, ImportError):
        raise
    except Exception as error:  # pyarrow raises ArrowInvalid, OSError, ArrowNotImplementedError and others
        raise MediaError(
            f"{name} is not a readable Parquet file ({error}): it may be truncated or corrupt."
        ) from error
    values = np.stack([_column(data, column, name)[0].astype(np.float64) for column in wanted], axis=1)
    for title in spare:
        column = data.column(title).to_numpy().astype(np.float64)
        if (np.diff(column) > 0).all():
            _check_rising(title, column[0], column[-1], rows, name)
    moments = {clock.title: _moments(data, clock, [found[place] for place in clock.places], name) for clock in clocks}
    _check_spans({title: float(seconds[-1]) for title, (seconds, *_) in moments.items()}, rows, name)
    seconds, start, guessed = next(iter(moments.values()), (None, 0.0, False))
    return Table(values * columns.factors, seconds, start, columns.unsaid, _names(columns), guessed)


def _check_numbers(kind: Any, title: str, name: str) -> None:
    if not (_is_counted(kind) or require("pyarrow").types.is_boolean(kind)):
        raise MediaError(f"{name}, column {title} holds {kind}, expected numbers.")


def _is_counted(kind: Any) -> bool:
    types = require("pyarrow").types
    return types.is_integer(kind) or types.is_floating(kind) or types.is_timestamp(kind) or types.is_decimal(kind)


def _moments(data: Any, clock: Clock, titles: list[str], name: str) -> tuple[np.ndarray, float, bool]:
    """Seconds after the first time, the first time, and whether the unit is unknown."""
    seconds, start, guessed = np.zeros(len(data)), 0.0, False
    for title, said in zip(titles, clock.units, strict=True):
        stamps, unit = _column(data, title, name)
        unit = unit or said or epoch_unit(float(stamps[0]))
        guessed = unit is None
        # Subtracting before the conversion to floats keeps the nanoseconds of epoch times.
        seconds += (stamps - stamps[0]).astype(np.float64) * (unit or 1.0)
        start += float(stamps[0]) * (unit or 1.0)
    return seconds, start, guessed


def _column(data, column: str, name: str) -> tuple[np.ndarray, float | None]:
    """One column as numbers, and the seconds of its unit if its type has one."""
    pyarrow = require("pyarrow")
    cells = data.column(column)
    if cells.null_count:
        row = int(np.argmin(cells.is_valid().to_numpy()))
        raise MediaError(f"{name}, row {row}, column {column} is empty: leave out or fill rows with missing values.")
    unit = None
    if pyarrow.types.is_timestamp(cells.type):
        unit = _UNITS[cells.type.unit]
        cells = cells.cast(pyarrow.int64())
    elif pyarrow.types.is_decimal(cells.type):
        cells = cells.cast(pyarrow.float64())
    values = cells.to_numpy()
    if values.dtype.kind not in "buif":
        raise MediaError(f"{name}, column {column} holds {cells.type}, expected numbers.")
    if values.dtype.kind in "bu":
        values = values.astype(np.int64)
    return values, unit
