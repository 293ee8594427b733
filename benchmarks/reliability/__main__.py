"""Attacks the package in many ways, and counts what it survives.

    python -m benchmarks.reliability --list
    python -m benchmarks.reliability                                  # all at full counts: 10 minutes on two cores
    python -m benchmarks.reliability --only KilledBuilds --scale 0.5
    python -m benchmarks.reliability --write-docs                     # from what outputs/reliability holds, without attacks

Each attack has its seed. What did not survive is printed as it happens, and kept in outputs/reliability with the counts.
"""

import argparse
import json
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from . import injection, json_files, media, serving, stores, trainings
from .attack import Attack
from .page import write


FOLDER = Path("outputs", "reliability")
ATTACKS: dict[str, Callable[[], Attack]] = {
    one.__name__: one for part in (media, json_files, injection, stores, trainings, serving) for one in part.ATTACKS
}


def run(name: str, count: int, seed: int, most_seconds: float) -> dict[str, Any]:
    attack, rng, ways = ATTACKS[name](), random.Random(seed), Counter()
    failed, tried = [], 0
    with tempfile.TemporaryDirectory() as folder:
        attack.prepare(Path(folder))
        started = time.monotonic()
        try:
            while tried < count and time.monotonic() - started < most_seconds:
                outcome = attack.attempt(rng)
                tried += 1
                ways[outcome.how] += 1
                if not outcome.survived:
                    failed.append(f"{outcome.how}: {outcome.what}")
                    print(f"  {name}: {failed[-1]:.300}", flush=True)
        finally:
            attack.end()
    seconds = round(time.monotonic() - started)
    return {
        "attack": attack.name, "full": attack.full, "tried": tried, "survived": tried - len(failed), "ways": ways,
        "seed": seed, "seconds": seconds, "failed": failed,
    }  # fmt: skip


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ATTACKS, default=[*ATTACKS], help="attacks; default: all")
    parser.add_argument("--scale", type=float, default=1, help="share of the full counts")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="time of one attack at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--list", action="store_true", help="attacks and their full counts")
    parser.add_argument(
        "--write-docs", action="store_true", help="table in docs/reliability.md, from results that are there"
    )
    return parser


def main() -> int:
    arguments = parser().parse_args()
    if arguments.list:
        print("\n".join(f"{name:<16} {kind.full:>6}  {kind.name}" for name, kind in ATTACKS.items()))
        return 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    if arguments.write_docs:
        write(Path("docs", "reliability.md"), FOLDER, ATTACKS)
        return 0
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lost = 0
    for name in arguments.only:
        count = max(1, round(ATTACKS[name].full * arguments.scale))
        result = run(name, count, arguments.seed, 60 * arguments.minutes)
        (FOLDER / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
        print(
            f"{result['attack']}: {result['survived']} of {result['tried']} survived; {dict(result['ways'])}",
            flush=True,
        )
        lost += len(result["failed"])
    return min(lost, 1)


if __name__ == "__main__":
    sys.exit(main())
