"""The same command in several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from anymodality.commands._options import option


NumProcesses = Annotated[int, option("N", "Number of processes; 1 under a launcher.", min=1)]


def is_alone() -> bool:
    """Whether nobody launched this process among others."""
    return int(os.environ.get("WORLD_SIZE", 1)) == 1


def run_in_processes(ctx: typer.Context, *more: str, without: Sequence[str] = ()) -> None:
    """Runs this command in `num_processes` processes, each with its rank; exit status 1 if one fails.

    Args:
        more: words for their command lines.
        without: parameters that they are not given.
    """
    count = ctx.params["num_processes"]
    path = ctx.command_path.split()[1:]
    command = [sys.executable, "-m", "anymodality.cli", *path, *_words(ctx, {*without, "num_processes"}), *more]
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


def _words(ctx: typer.Context, without: set[str]) -> Iterator[str]:
    """What the user gave, as words of a command line."""
    for parameter in ctx.command.params:
        value = ctx.params.get(parameter.name)
        if parameter.name in without or value is None or value is False or value == []:
            continue
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if parameter.param_type_name == "option":
                yield parameter.opts[0]
            if one is not True:
                yield str(one)
