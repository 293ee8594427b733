"""Tests whether two runs differ by more than chance: the paired bootstrap over samples."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anymodality.plain.tables import columns

from .results import read_answers, read_results
from .scores import SCORES
from .tasks import TASKS, rows_of


@dataclass(frozen=True)
class Difference:
    """A metric of two runs. 95 % of the resampled differences `b - a` are between `low` and `high`. `p` is two-sided: how
    often resampling gives a difference of the other sign, or none."""

    task: str
    metric: str
    a: float
    b: float
    low: float
    high: float
    p: float
    samples: int


def compare(a: str | os.PathLike, b: str | os.PathLike, *, resamples: int = 2000, seed: int = 0) -> list[Difference]:
    """Each metric of each task that both runs have (Efron and Tibshirani 1993; Koehn 2004 for machine translation).

    The same samples are drawn, with replacement, from both runs; corpus scores (BLEU, WER, AUC) are computed again for each
    draw. CIDEr's IDF stays that of all samples.

    Args:
        a, b: results files, with their folders of samples.

    Raises:
        ValueError: the runs share no task, or their samples differ.
    """
    results = [read_results(path)["tasks"] for path in (a, b)]
    names = [name for name in results[0] if name in results[1]]
    if not names:
        raise ValueError(f"{a} has {', '.join(results[0])}, {b} has {', '.join(results[1])}: no task in both.")
    found = []
    for name in names:
        kinds = [result[name]["task"] for result in results]
        if kinds[0] != kinds[1]:
            raise ValueError(f"The task {name} is of kind {kinds[0]} in {a}, but {kinds[1]} in {b}.")
        answers = _paired(name, read_answers(a, name), read_answers(b, name))
        rng = np.random.default_rng(seed)
        ours, theirs = (rows_of(TASKS[kinds[0]], lines) for lines in answers)
        for metric, (score, rows) in ours.items():
            found += _differences(name, metric, score, (rows, theirs[metric][1]), resamples, rng)
    return found


def _paired(name: str, a: Sequence[Mapping], b: Sequence[Mapping]) -> tuple[list[Mapping], list[Mapping]]:
    """The samples of both runs; if answers are rated, only samples that are rated in both."""
    if len(a) != len(b):
        raise ValueError(f"{name}: {len(a)} samples in one run, {len(b)} in the other.")
    pairs = list(zip(a, b, strict=True))
    for one, other in pairs:
        if any(one.get(key) != other.get(key) for key in ("index", "id", "references", "choices")):
            raise ValueError(f"{name}: sample {one['index']} (id {one['id']!r}) is not the same in both runs.")
    if any("rating" in line for line in [*a, *b]):
        pairs = [(one, other) for one, other in pairs if "rating" in one and "rating" in other]
    return [one for one, _ in pairs], [other for _, other in pairs]


def _differences(
    task: str, metric: str, score: str, rows: tuple[np.ndarray, np.ndarray], resamples: int, rng: np.random.Generator
) -> list[Difference]:
    total, count = SCORES[score].total, len(rows[0])
    a, b = total(rows[0]), total(rows[1])
    draws: dict[str, list[float]] = {key: [] for key in a}
    for _ in range(resamples):
        drawn = rng.integers(0, count, count)
        ours, theirs = total(rows[0][drawn]), total(rows[1][drawn])
        for key in a:
            draws[key].append(theirs[key] - ours[key])
    return [
        Difference(task, metric + key.removeprefix(score), a[key], b[key], *_summary(draws[key]), count) for key in a
    ]


def _summary(differences: Sequence[float]) -> tuple[float, float, float]:
    """2.5 and 97.5 percent quantiles, and the two-sided p-value."""
    values = np.asarray(differences)
    values = values[~np.isnan(values)]  # the score may be undefined for a draw
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    low, high = np.quantile(values, [0.025, 0.975]).tolist()
    tail = min((values <= 0).mean(), (values >= 0).mean())
    return low, high, float(min(1.0, 2 * tail))


def as_table(differences: Sequence[Difference]) -> str:
    rows = [("task", "metric", "a", "b", "b - a", "95 % interval", "p")]
    for one in differences:
        numbers = (f"{one.a:.4f}", f"{one.b:.4f}", f"{one.b - one.a:+.4f}", f"[{one.low:.4f}, {one.high:.4f}]")
        rows.append((one.task, one.metric, *numbers, f"{one.p:.3f}"))
    return "\n".join(columns(rows, right=range(2, 7)))
