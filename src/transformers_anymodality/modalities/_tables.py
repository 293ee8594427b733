"""Tables of sensor readings (CSV, Parquet): finding columns by name and reading them as numbers."""

import csv
import io
import math
from array import array
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..utils.imports import require
from ._source import Limits, MediaError, opened


_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}  # in seconds
# Name of a time column -> seconds per unit.
TIME_COLUMNS = dict.fromkeys(("time", "t", "timestamp", "seconds"), 1.0)
TIME_COLUMNS |= {f"{name}_{unit}": value for name in ("time", "timestamp") for unit, value in _UNITS.items()}

_Number = TypeVar("_Number", float, Decimal)
# Readings as they were recorded: float64 (rows, channels), and the seconds of each row after the first, float64 (rows,),
# or None without a time column.
Table = tuple[np.ndarray, np.ndarray | None]


def find_columns(found: Sequence[str], channels: Sequence[str], name: str) -> tuple[list[int], int | None]:
    """Places of the channels and of the time column among the column names found, whatever their case. Raises
    `MediaError` where a channel is missing or there twice, or for several time columns."""
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


def read_csv(
    source: Path | BytesIO, channels: Sequence[str], sampling_rate: float, name: str, limits: Limits
) -> Table:
    """Read a CSV (comma, semicolon or tab) with a header row, or a purely numeric one of just the channels. Raises
    `MediaError`: not text, columns missing, a cell that is not a finite number, a row of another length (a truncated
    last line shows so), or more than `limits.max_seconds`."""
    with opened(source) as binary:
        text = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
        try:
            return _parse_csv(text, channels, sampling_rate, name, limits)
        except UnicodeDecodeError as error:
            raise MediaError(f"{name} is not UTF-8 text ({error}): expected CSV, .npy or Parquet.") from error
        except csv.Error as error:
            raise MediaError(f"{name} is not a readable CSV: {error}.") from error
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
    titles = [cell.strip() for cell in next(rows, [])]
    if not titles:
        raise MediaError(f"{name} holds no rows: expected a header row and readings.")
    if all(map(_is_number, titles)):
        extra = len(titles) - len(channels)
        if extra not in (0, 1):
            raise MediaError(
                f"{name} has no header row and {len(titles)} columns, expected {len(channels)} "
                f"({', '.join(channels)}) or a time column before them: add a header row."
            )
        rows = chain([titles], rows)
        places, time_place = list(range(extra, len(titles))), 0 if extra else None
        titles = ["time"] * extra + list(channels)
    else:
        places, time_place = find_columns(titles, channels, name)
    unit = 1.0 if time_place is None else TIME_COLUMNS[titles[time_place].lower()]
    values, seconds, start = array("d"), array("d"), None
    for row_number, row in enumerate(rows):
        where = f"{name}, data row {row_number} (line {reader.line_num})"
        if len(row) != len(titles):
            raise MediaError(
                f"{where} has {len(row)} cells, expected {len(titles)}: the file may be truncated there, or the cell "
                "separator also stands inside numbers."
            )
        for place in places:
            hint = "decimals take a point" if row[place].strip() else "leave out or fill rows with missing values"
            values.append(_finite(float, row[place], f"{where}, column {titles[place]}", "number", hint))
        elapsed = row_number / sampling_rate
        if time_place is not None:
            # Epoch times in nanoseconds have more digits than a float; only their differences are made floats.
            moment = _finite(
                Decimal, row[time_place], f"{where}, column {titles[time_place]}", "time", "a plain number, not a date"
            )
            start = moment if start is None else start
            elapsed = float(moment - start) * unit
            seconds.append(elapsed)
        limits.check("max_seconds", elapsed, f"{where} lies {elapsed:.6g} s after the first")
    if not values:
        raise MediaError(f"{name} has a header row and no readings.")
    table = np.frombuffer(values, np.float64).reshape(-1, len(places))
    return table, None if time_place is None else np.frombuffer(seconds, np.float64)


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


def read_parquet(source: Path | BytesIO, channels: Sequence[str], name: str, limits: Limits) -> Table:
    """Read a Parquet file by the same rules for columns; a time column of Arrow's timestamp type has its own unit.
    Raises `MediaError`: unreadable, columns missing, empty cells, not numbers, or beyond `limits.max_bytes`;
    `ImportError` without pyarrow."""
    parquet = require("pyarrow.parquet")
    try:
        with opened(source) as file, parquet.ParquetFile(file) as table:
            rows = table.metadata.num_rows
            found = table.schema_arrow.names
            places, time_place = find_columns(found, channels, name)
            limits.check("max_bytes", rows * 8 * (len(places) + 1), f"{name} has {rows} rows")
            if rows == 0:
                raise MediaError(f"{name} holds no rows.")
            wanted = [found[place] for place in places]
            times = [] if time_place is None else [found[time_place]]
            data = table.read(columns=wanted + times)
    except (MediaError, ImportError):
        raise
    except Exception as error:  # pyarrow raises ArrowInvalid, OSError, ArrowNotImplementedError and others
        raise MediaError(
            f"{name} is not a readable Parquet file ({error}): it may be truncated or corrupt."
        ) from error
    values = np.stack([_column(data, column, name)[0].astype(np.float64) for column in wanted], axis=1)
    if not times:
        return values, None
    stamps, unit = _column(data, times[0], name)
    # Subtracting integers first keeps the nanoseconds of epoch times.
    return values, (stamps - stamps[0]).astype(np.float64) * (unit or TIME_COLUMNS[times[0].strip().lower()])


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
