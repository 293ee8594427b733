"""Ratios of two alternating runs, and how they are reported.

A ratio is `ours / rival` in CPU seconds of one thread (on CUDA, in seconds of the device). Rounds go A B, B A, A B, ...
The report has the median of the rounds' ratios, their quartiles, and the goal. Nothing is asserted.
"""

import argparse
import gc
import platform
import resource
import statistics
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import logging


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32
# Peak of dense bfloat16, from the makers' data sheets.
_PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2250e12}
_SHORTEST = 0.02  # seconds of one timing: faster functions run several times


@dataclass(frozen=True)
class Effort:
    """Seconds per ratio, the least number of rounds, whether the largest sizes and full depth are measured, and whether
    models are tiny (for tests)."""

    seconds: float
    least: int
    largest: bool = True
    tiny: bool = False


FULL, QUICK, TINY = Effort(6.0, 7), Effort(0.5, 3, largest=False), Effort(0.0, 1, tiny=True)


@dataclass(frozen=True)
class Result:
    """A line of the table: the median of `ratios`, and its goal: at most `limit` or, if `at_least`, at least that."""

    goal: int
    what: str
    rival: str
    ratios: list[float]
    limit: float
    at_least: bool = False
    note: str = ""
    unit: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    @property
    def is_met(self) -> bool:
        return self.median >= self.limit if self.at_least else self.median <= self.limit

    @property
    def cells(self) -> list[str]:
        first, _, third = statistics.quantiles(self.ratios, n=4) if len(self.ratios) > 1 else self.ratios * 3
        spread = "" if len(self.ratios) == 1 else f"{_number(first)} to {_number(third)}"
        limit = f"{'>=' if self.at_least else '<='} {_number(self.limit)}{self.unit}"
        met = "yes" if self.is_met else "no"
        return [
            str(self.goal),
            self.what,
            self.rival,
            f"{_number(self.median)}{self.unit}",
            spread,
            limit,
            met,
            self.note,
        ]

    def __str__(self) -> str:
        return " | ".join(self.cells)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _clock() -> float:
    if DEVICE == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def seconds(run: Callable[[], Any], times: int = 1) -> float:
    """Seconds of one run, as the mean of several."""
    start = _clock()
    for _ in range(times):
        run()
    return (_clock() - start) / times


def _warm(run: Callable[[], Any]) -> float:
    """Seconds of a run; for short ones, not of the first run."""
    first = seconds(run)
    return first if first > 10 * _SHORTEST else seconds(run)


def _times(runs: Sequence[Callable[[], Any]], effort: Effort) -> int:
    """How often each function runs in one timing, so that the longest is not too short. Warms them up."""
    longest = max(map(_warm, runs))
    return 1 if effort.tiny else max(1, round(_SHORTEST / max(longest, 1e-9)))


def compare(ours: Callable[[], Any], rival: Callable[[], Any], effort: Effort) -> list[float]:
    """The ratio of each round, after a warm-up."""
    times = _times((ours, rival), effort)
    found: list[float] = []
    gc.collect()
    begin = _clock()
    while len(found) < effort.least or _clock() - begin < effort.seconds:
        if len(found) % 2:
            other, own = seconds(rival, times), seconds(ours, times)
        else:
            own, other = seconds(ours, times), seconds(rival, times)
        found.append(own / other)
    return found


def compare_commands(ours: Sequence[str], rival: Sequence[str], rounds: int) -> list[float]:
    """The same for two commands, in CPU seconds of their processes."""
    found = []
    for index in range(rounds + (rounds > 1)):
        pair = (ours, rival) if index % 2 else (rival, ours)
        used = {command is ours: children_seconds(command) for command in pair}
        found.append(used[True] / used[False])
    return found[-rounds:]  # the first of several rounds warms up the files


def children_seconds(command: Sequence[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def growth(sizes: Sequence[int], run: Callable[[int], Callable[[], Any]], effort: Effort) -> float:
    """The exponent of the cost's growth: the slope of log seconds over log sizes, by least squares."""
    costs = []
    for size in sizes:
        once = run(size)
        times = _times((once,), effort)
        costs.append(min(seconds(once, times) for _ in range(effort.least)))
    logs = [torch.tensor(values, dtype=torch.float64).log() for values in (sizes, costs)]
    x, y = (values - values.mean() for values in logs)
    return float((x * y).sum() / (x * x).sum())


def throughput(step: Callable[[], Any], tokens: int) -> str:
    """On CUDA, tokens per second and model FLOPs utilisation of a step; elsewhere "", because machines are shared."""
    if DEVICE == "cpu":
        return ""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step()
    spent = statistics.median(seconds(step) for _ in range(5))
    told, card = f"{tokens / spent:,.0f} tokens/s", torch.cuda.get_device_name()
    peak = next((peak for name, peak in _PEAK.items() if name in card), None)
    return told if peak is None else f"{told}, MFU {counter.get_total_flops() / spent / peak:.0%}"


def prepare() -> None:
    """Sets one thread, and switches progress bars off."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()


def machine() -> str:
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else _processor()
    versions = f"torch {torch.__version__}, Transformers {transformers.__version__}"
    return f"{versions}, Python {platform.python_version()}, {device}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, platform.machine())}, one thread"


def run(script: str, effort: Effort) -> list[Result]:
    """Prints a script's results; if the script fails, the results before the failure stay."""
    prepare()
    results = []
    try:
        for result in import_module(f"benchmarks.{script}").measure(effort):
            print(result, flush=True)
            results.append(result)
    except Exception:  # the other scripts' figures are still valid
        traceback.print_exc()
    return results


def main(description: str, measure: Callable[[Effort], Iterator[Result]]) -> None:
    """Runs one script, and prints each result at once."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="Fewer rounds, no large sizes: a first impression")
    options = parser.parse_args()
    prepare()
    print(machine())
    for result in measure(QUICK if options.quick else FULL):
        print(result, flush=True)
