"""Runs all replicas, or those that are named, seed by seed, and prints one table.

make replicas                                # all five systems
make replicas ARGS="pandagpt --seeds 1"      # one of them, one seed
make replicas ARGS=--write-docs              # all, and then their figures into docs/replicas.md

A seed that the same scripts ran before is not run again, so an interrupted run continues.
"""

import argparse
import importlib
import os
import shutil
from pathlib import Path

import torch
from digits_world.world import COUNTS, MODALITIES, make_world
from transformers import set_seed

from . import claims, results
from .lab import Lab


SYSTEMS = ("anymal", "macaw_llm", "mplug_owl", "pandagpt", "x_llm")
WORLD = COUNTS | {"validation": dict.fromkeys(MODALITIES, 240)}


def run(system: str, output: Path, scale: float = 1.0, seed: int = 0) -> claims.Replica:
    """One seed of a system's replica, in a world of files that all replicas share."""
    counts = {split: {name: max(40, round(n * scale)) for name, n in row.items()} for split, row in WORLD.items()}
    world = make_world(output / "world", counts)
    started, file = _processor_seconds(), results.run_file(output, system, seed)
    shutil.rmtree(file.parent, ignore_errors=True)  # left by an interrupted run
    file.parent.mkdir(parents=True)
    set_seed(seed)
    lab = Lab(file.parent, output / system, world, scale, seed)
    replica = importlib.import_module(f".{system}", __package__).run(lab)
    results.save(file, replica, _processor_seconds() - started, results.settings(system, scale))
    return replica


def _processor_seconds() -> float:
    """CPU time of this process and of its ended children, without waiting."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    parser = argparse.ArgumentParser(prog="replicas", description=__doc__.splitlines()[0])
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help=f"of {', '.join(SYSTEMS)}; all if none is named")
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 of each, 5 to 12 minutes of one core (3)"
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/replicas"), help="folder for all that is made")
    parser.add_argument("--scale", type=float, default=1.0, help="share of all steps; 0.01 only tries the code")
    parser.add_argument("--write-docs", action="store_true", help="write what was found into docs/replicas.md, .json")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.systems) - set(SYSTEMS)):
        parser.error(f"no replica of {', '.join(unknown)}; there are {', '.join(SYSTEMS)}")
    if arguments.seeds < 1:
        parser.error("--seeds is 1 or more")
    if arguments.write_docs and arguments.scale != 1:
        parser.error("--write-docs takes what a run at full scale found")
    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))  # one core is left to the process that reads files
    output, scale = arguments.output, arguments.scale
    for system in arguments.systems or SYSTEMS:
        for seed in range(arguments.seeds):
            if results.load(results.run_file(output, system, seed), results.settings(system, scale)):
                print(f"\n== {system}, seed {seed}: was run", flush=True)
                continue
            print(f"\n== {system}, seed {seed}", flush=True)
            run(system, output, scale, seed)
            print(f"\n{results.table(results.write(output, SYSTEMS, scale))}", flush=True)
    print(f"\n{results.table(results.write(output, SYSTEMS, scale))}")
    if arguments.write_docs:
        results.write_docs(output)
    print(f"\nExamples and loss curves: {output / 'index.html'}")


if __name__ == "__main__":
    main()
