"""Runs the replicas, all or those named, and prints one table.

make replicas                     # all five: half an hour on two cores
make replicas ARGS=pandagpt       # one of them
"""

import argparse
import importlib
import os
import time
from pathlib import Path

import torch
from digits_world.world import COUNTS, make_world
from transformers import set_seed

from . import claims
from .lab import Lab


SYSTEMS = ("anymal", "macaw_llm", "mplug_owl", "pandagpt", "x_llm")


def run(system: str, output: Path, scale: float = 1.0) -> claims.Replica:
    """One system's replica, in a world of files that all replicas share."""
    started = time.time()
    counts = {split: {name: max(40, round(n * scale)) for name, n in row.items()} for split, row in COUNTS.items()}
    world = make_world(output / "world", counts)
    set_seed(0)
    folder = output / system
    folder.mkdir(parents=True, exist_ok=True)
    replica = importlib.import_module(f".{system}", __package__).run(Lab(folder, world, scale))
    replica.seconds = round(time.time() - started, 1)
    return replica


def main() -> None:
    parser = argparse.ArgumentParser(prog="replicas", description=__doc__.splitlines()[0])
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help=f"of {', '.join(SYSTEMS)}; all if none is named")
    parser.add_argument("--output", type=Path, default=Path("outputs/replicas"), help="folder for all that is made")
    parser.add_argument("--scale", type=float, default=1.0, help="share of all steps; 0.01 only tries the code")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.systems) - set(SYSTEMS)):
        parser.error(f"no replica of {', '.join(unknown)}; there are {', '.join(SYSTEMS)}")
    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))  # one core is left to the process that reads files
    replicas = {}
    for system in arguments.systems or SYSTEMS:
        print(f"\n== {system}", flush=True)
        replicas[system] = run(system, arguments.output, arguments.scale)
        claims.write(arguments.output, replicas)
        print(f"\n{claims.table(replicas)}", flush=True)
    print(f"\nExamples and loss curves: {arguments.output / 'index.html'}")


if __name__ == "__main__":
    main()
