"""Tables of sensor readings (CSV, Parquet): finding columns by name and reading them as numbers."""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from io import BytesIO
from pathlib import Path

import numpy as np

from ..utils.imports import require
from ._source import Limits, MediaError, opened


# Name of a time column -> seconds per unit.
TIME_COLUMNS = dict.fromkeys(("time", "t", "timestamp", "time_s", "timestamp_s", "seconds"), 1.0)
for _suffix, _unit in (("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)):
    TIME_COLUMNS[f"time_{_suffix}"] = TIME_COLUMNS[f"timestamp_{_suffix}"] = _unit


@dataclass
class Table:
    """Readings as they were recorded.

    Attributes:
        values: float64, shape (rows, channels).
        seconds: float64, shape (rows,), counted from the first row; None without a time column.
    """

    values: np.ndarray
    seconds: np.ndarray | None


def find_columns(found: Sequence[str], channels: Sequence[str], name: str) -> tuple[list[int], int | None]:
    """Places of the channels and of the time column among the column names found, whatever their case.

    Raises:
        MediaError: a channel missing or there twice, or several time columns.
    """
    plain = [column.strip().lower() for column in found]
    wanted = [channel.strip().lower() for channel in channels]
    missing = [channel for channel, key in zip(channels, wanted, strict=True) if key not in plain]
    if missing:
        raise MediaError(
            f"{name} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; it has {', '.join(found)}. "
            "Rename its columns or the channels."
        )
    doubled = [channel for channel, key in zip(channels, wanted, strict=True) if plain.count(key) > 1]
    if doubled:
        raise MediaError(f"{name} has more than one column named {', '.join(doubled)}: keep one of each.")
    times = [place for place, key in enumerate(plain) if key in TIME_COLUMNS and key not in wanted]
    if len(times) > 1:
        raise MediaError(
            f"{name} has several time columns ({', '.join(found[place] for place in times)}): keep one of them."
        )
    return [plain.index(key) for key in wanted], times[0] if times else None


def _number(cell: str, where: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        hint = "leave out or fill rows with missing values" if not cell.strip() else "decimals take a point"
        raise MediaError(f"{where} holds {cell!r}, expected a number: {hint}.") from None
    if not np.isfinite(value):
        raise MediaError(f"{where} holds {cell!r}, expected a finite number: leave out or fill such rows.")
    return value


def _moment(cell: str, where: str) -> Decimal:
    # Epoch times in nanoseconds have more digits than a float; only their differences are made floats.
    try:
        value = Decimal(cell.strip())
    except InvalidOperation:
        raise MediaError(f"{where} holds {cell!r}, expected a time as a plain number, not a date.") from None
    if not value.is_finite():
        raise MediaError(f"{where} holds {cell!r}, expected a finite time.")
    return value


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def read_csv(
    source: Path | BytesIO, channels: Sequence[str], sampling_rate: float, name: str, limits: Limits
) -> Table:
    """Read a CSV (comma, semicolon or tab) with a header row, or a purely numeric one of just the channels.

    Raises:
        MediaError: no text, columns missing, a cell that is no finite number, a row of another length (a truncated
            last line shows so), or more than `limits.max_seconds`.
    """
    with opened(source) as binary:
        text = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
        try:
            return _parse_csv(text, channels, sampling_rate, name, limits)
        except UnicodeDecodeError as error:
            raise MediaError(f"{name} is no UTF-8 text ({error}): expected CSV, .npy or Parquet.") from error
        except csv.Error as error:
            raise MediaError(f"{name} is no readable CSV: {error}.") from error
        finally:
            text.detach()


def _parse_csv(
    text: io.TextIOWrapper, channels: Sequence[str], sampling_rate: float, name: str, limits: Limits
) -> Table:
    first_line = text.readline(1 << 16)
    if "\0" in first_line:
        raise MediaError(f"{name} is binary: expected CSV, .npy or Parquet.")
    text.seek(0)
    reader = csv.reader(text, delimiter=max(",;\t", key=first_line.count))
    rows = (row for row in reader if any(cell.strip() for cell in row))
    header = next(rows, None)
    if header is None:
        raise MediaError(f"{name} holds no rows: expected a header row and readings.")
    header = [cell.strip() for cell in header]
    pending = []
    if all(map(_is_number, header)):
        extra = len(header) - len(channels)
        if extra not in (0, 1):
            raise MediaError(
                f"{name} has no header row and {len(header)} columns, expected {len(channels)} "
                f"({', '.join(channels)}) or a time column before them: add a header row."
            )
        pending, places, time_place = [header], list(range(extra, len(header))), 0 if extra else None
        titles = (["time"] if extra else []) + list(channels)
    else:
        places, time_place = find_columns(header, channels, name)
        titles = header
    unit = 1.0 if time_place is None else TIME_COLUMNS[titles[time_place].lower()]
    values, seconds, start = array("d"), array("d"), None
    for row_number, row in enumerate(_chain(pending, rows)):
        where = f"{name}, data row {row_number} (line {reader.line_num})"
        if len(row) != len(titles):
            raise MediaError(
                f"{where} has {len(row)} cells, expected {len(titles)}: the file may be truncated there, or the cell "
                "separator also stands inside numbers."
            )
        for place in places:
            values.append(_number(row[place], f"{where}, column {titles[place]}"))
        elapsed = row_number / sampling_rate
        if time_place is not None:
            moment = _moment(row[time_place], f"{where}, column {titles[time_place]}")
            start = moment if start is None else start
            seconds.append(float(moment - start) * unit)
            elapsed = seconds[-1]
        if elapsed > limits.max_seconds:
            raise MediaError(
                f"{where} lies {elapsed:.6g} s after the first, above the limit of {limits.max_seconds:g}."
            )
    if not values:
        raise MediaError(f"{name} has a header row and no readings.")
    table = np.frombuffer(values, np.float64).reshape(-1, len(places))
    return Table(table, None if time_place is None else np.frombuffer(seconds, np.float64))


def _chain(pending, rows):
    yield from pending
    yield from rows


def read_parquet(source: Path | BytesIO, channels: Sequence[str], name: str, limits: Limits) -> Table:
    """Read a Parquet file by the same rules for columns; a time column of Arrow's timestamp type has its own unit.

    Raises:
        MediaError: unreadable, columns missing, empty cells, no numbers, or beyond `limits.max_bytes`.
        ImportError: pyarrow is missing.
    """
    parquet = require("pyarrow.parquet")
    try:
        with opened(source) as file, parquet.ParquetFile(file) as table:
            rows = table.metadata.num_rows
            found = table.schema_arrow.names
            places, time_place = find_columns(found, channels, name)
            if rows * 8 * (len(places) + 1) > limits.max_bytes:
                raise MediaError(f"{name} has {rows} rows, more than fit the limit of {limits.max_bytes} bytes.")
            if rows == 0:
                raise MediaError(f"{name} holds no rows.")
            wanted = [found[place] for place in places]
            times = [] if time_place is None else [found[time_place]]
            data = table.read(columns=wanted + times)
    except (MediaError, ImportError):
        raise
    except Exception as error:  # pyarrow raises ArrowInvalid, OSError, ArrowNotImplementedError and others
        raise MediaError(f"{name} is no readable Parquet file ({error}): it may be truncated or corrupt.") from error
    values = np.stack([_column(data, column, name)[0].astype(np.float64) for column in wanted], axis=1)
    if not times:
        return Table(values, None)
    stamps, unit = _column(data, times[0], name)
    # Subtracting integers first keeps the nanoseconds of epoch times.
    return Table(values, (stamps - stamps[0]).astype(np.float64) * (unit or TIME_COLUMNS[times[0].strip().lower()]))


def _column(data, column: str, name: str) -> tuple[np.ndarray, float | None]:
    """One column as numbers, and the seconds of its unit if its type has one."""
    pyarrow = require("pyarrow")
    cells = data.column(column)
    if cells.null_count:
        row = int(np.argmin(cells.is_valid().to_numpy()))
        raise MediaError(f"{name}, row {row}, column {column} is empty: leave out or fill rows with missing values.")
    unit = None
    if pyarrow.types.is_timestamp(cells.type):
        unit = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}[cells.type.unit]
        cells = cells.cast(pyarrow.int64())
    elif pyarrow.types.is_decimal(cells.type):
        cells = cells.cast(pyarrow.float64())
    values = cells.to_numpy()
    if values.dtype.kind not in "buif":
        raise MediaError(f"{name}, column {column} holds {cells.type}, expected numbers.")
    if values.dtype.kind in "bu":
        values = values.astype(np.int64)
    return values, unit
