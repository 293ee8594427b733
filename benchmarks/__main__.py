"""All benchmarks, each script in a process of its own, and their table, which is written into docs/performance.md.

python -m benchmarks [--quick] [--only training inference ...]
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from ._ratio import FULL, QUICK, Effort, Result, machine, run


PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
SCRIPTS = ("training", "inference", "memory", "processing", "starting", "systems", "features", "growth", "load")
HEAD = ("goal", "what", "rival", "ratio", "quartiles", "wanted", "met", "")
BEGIN, END = "<!-- begin: written by `make bench` -->", "<!-- end -->"


def run_alone(script: str, effort: Effort) -> list[Result]:
    """As `run`, in a new process: objects and memory of earlier scripts would cost time."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(run, script, effort).result()


def table(results: list[Result]) -> str:
    rows = [HEAD, ("---",) * len(HEAD), *(result.cells for result in sorted(results, key=lambda one: one.goal))]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def write(results: list[Result], how: str, page: Path = PAGE) -> None:
    """Writes the table between its markers."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    body = f"{BEGIN}\n{date.today()}, {how}: {machine()}.\n\n{table(results)}\n{END}"
    page.write_text(f"{before}{body}{after}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="Fewer rounds, no large sizes, no page: a first impression"
    )
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=SCRIPTS, help="Scripts to run; no page")
    options = parser.parse_args()
    print(machine(), flush=True)
    each = partial(run, effort=QUICK) if options.quick else partial(run_alone, effort=FULL)
    results = [result for script in options.only for result in each(script)]
    if options.only == SCRIPTS and not options.quick:
        write(results, f"in {FULL.least} rounds or more")
    print(f"{sum(result.is_met for result in results)} of {len(results)} goals met")
    return 0


if __name__ == "__main__":
    sys.exit(main())
