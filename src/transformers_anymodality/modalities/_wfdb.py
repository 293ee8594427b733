"""Records in PhysioNet's WFDB format: a header (`.hea`) names the files of the signals (`.dat`)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..utils.imports import require
from ._columns import Channel, find_columns
from ._source import Limits, MediaError
from ._tables import Table


def header_of(path: Path) -> Path | None:
    """The header of the record to which a file belongs; None if it does not belong to a record."""
    if path.suffix.lower() not in (".hea", ".dat"):
        return None
    header = path.with_suffix(".hea")
    return header if header.is_file() else None


def files_of(path: Path) -> list[Path]:
    """All files of a medium: for a record its header and signals, else the given file."""
    header = header_of(path)
    if header is None:
        return [path]
    lines = header.read_text(encoding="utf-8", errors="replace").splitlines()
    names = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")][1:]
    files = [header.parent / name for name in dict.fromkeys(names) if Path(name).name == name]
    return [header, *(file for file in files if file.is_file())]


def read_wfdb(header: Path, channels: Sequence[Channel], name: str, limits: Limits) -> Table:
    """Signals by name in physical units. Raises `MediaError`: unreadable, several segments, missing signals, or beyond
    the limits; `ImportError` without wfdb."""
    wfdb = require("wfdb")
    record = str(header.absolute().with_suffix(""))
    try:  # wfdb refuses headers that name files of other folders
        told = wfdb.rdheader(record)
        if getattr(told, "n_seg", None):
            raise MediaError(
                f"{name} is a record of {told.n_seg} segments: give the header of each segment separately."
            )
        limits.check_seconds((told.sig_len or 0) / told.fs, name)
        limits.check("max_bytes", (told.sig_len or 0) * told.n_sig * 8, lambda: f"{name} has {told.sig_len} samples")
        signals = wfdb.rdrecord(record)
    except (MediaError, ImportError):
        raise
    except Exception as error:  # wfdb may raise anything
        raise MediaError(
            f"{name} is not a readable WFDB record ({type(error).__name__}: {error}): keep its .dat files next to it."
        ) from error
    titles = [f"{title} ({unit})" for title, unit in zip(signals.sig_name, signals.units, strict=True)]
    columns = find_columns(titles, channels, name)
    values = signals.p_signal[:, columns.places].astype(np.float64) * columns.factors
    return Table(values, np.arange(len(values)) / signals.fs)
