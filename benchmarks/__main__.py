"""All benchmarks in one process, and their table, which is written into docs/performance.md.

python -m benchmarks [--quick] [--only training inference ...]
"""

import argparse
import gc
import sys
import traceback
from collections.abc import Iterator
from datetime import date
from importlib import import_module
from pathlib import Path

from ._ratio import FULL, QUICK, Effort, Result, begin, machine


PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
SCRIPTS = ("training", "inference", "memory", "processing", "starting", "systems", "features", "growth", "load")
HEAD = ("goal", "what", "rival", "ratio", "quartiles", "wanted", "met", "")
BEGIN, END = "<!-- begin: written by `make bench` -->", "<!-- end -->"


def run(script: str, effort: Effort) -> Iterator[Result]:
    """Yields and prints a script's results; if the script fails, the results before the failure stay."""
    gc.collect()
    gc.freeze()  # or the collector would pass through the objects of earlier scripts again and again
    try:
        for result in import_module(f"benchmarks.{script}").measure(effort):
            print(result, flush=True)
            yield result
    except Exception:  # the other scripts' figures are still valid
        traceback.print_exc()


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
    begin()
    effort = QUICK if options.quick else FULL
    results = [result for script in options.only for result in run(script, effort)]
    if options.only == SCRIPTS and not options.quick:
        write(results, f"in {effort.least} rounds or more")
    print(f"{sum(result.is_met for result in results)} of {len(results)} goals met")
    return 0


if __name__ == "__main__":
    sys.exit(main())
