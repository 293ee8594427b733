"""The same command in several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import typer


def run_in_processes(arguments: Sequence[str], count: int) -> None:
    """`anymodality ARGUMENTS` in `count` processes, each with its rank; exit status 1 if one fails."""
    command = [sys.executable, "-m", "anymodality.cli", *arguments]
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    shared = {**os.environ, "WORLD_SIZE": str(count), "OMP_NUM_THREADS": threads}
    processes = [
        subprocess.Popen(command, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(count)
    ]
    try:
        failed = any(process.wait() for process in processes)
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
    if failed:
        raise typer.Exit(1)
