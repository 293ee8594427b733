"""The same command in several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Annotated

import typer

from anymodality.commands._options import option


NumProcesses = Annotated[int, option("N", "Number of processes; 1 under a launcher.", min=1)]


def is_alone() -> bool:
    """Whether nobody launched this process among others."""
    return int(os.environ.get("WORLD_SIZE", 1)) == 1


def run_in_processes(ctx: typer.Context, *more: str) -> None:
    """Runs this command in `num_processes` processes, each with its rank and `more` words; exit status 1 if one fails."""
    count, path = ctx.params["num_processes"], len(ctx.command_path.split()) - 1
    command = [sys.executable, "-m", "anymodality.cli", *ctx.obj[:path], *more, *ctx.obj[path:]]
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    shared = {**os.environ, "WORLD_SIZE": str(count), "OMP_NUM_THREADS": threads}
    processes = [
        subprocess.Popen(command, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(count)
    ]
    try:
        failed = any(process.wait() for process in processes)
    finally:
        for process in processes:
            process.terminate()
    if failed:
        raise typer.Exit(1)
