"""Rows of results: each number with its rival, its control, its number of items, and its 95 % interval."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sacrebleu.metrics import CHRF
from scipy.stats import bootstrap

from transformers_anymodality.evaluation import SCORES


# The score of one item: numerator and denominator, which are summed over items before the division.
Scores = np.ndarray
LESS_IS_BETTER = ("wer", "cer")


def plain(text: str) -> str:
    """The text in lower case, without punctuation at its ends."""
    return " ".join(text.lower().strip(" .,!?").split())


def word_errors(said: Sequence[str], wanted: Sequence[str]) -> Scores:
    """Word edits, and the number of wanted words, as counted by the package's own `wer`."""
    return SCORES["wer"].rows(said, [[text] for text in wanted])


def character_errors(said: Sequence[str], wanted: Sequence[str]) -> Scores:
    return SCORES["cer"].rows(said, [[text] for text in wanted])


def chrf(said: Sequence[str], wanted: Sequence[str]) -> Scores:
    """chrF of each sentence (Popovic 2015) by sacrebleu, between 0 and 1; and 1 each, so that they are averaged."""
    score = CHRF().sentence_score
    return np.array([(score(one, [other]).score / 100, 1.0) for one, other in zip(said, wanted, strict=True)])


def exact(said: Sequence[Any], wanted: Sequence[Any]) -> Scores:
    """1 if both are the same except for case and punctuation; and 1 each."""
    same = [plain(str(one)) == plain(str(other)) for one, other in zip(said, wanted, strict=True)]
    return np.array([(float(one), 1.0) for one in same])


def verdict(said: Sequence[str], wanted: Sequence[str]) -> Scores:
    """For answers that give their reasons first: 1 if the last sentences are the same; and 1 each."""
    return exact([plain(one).split(". ")[-1] for one in said], [plain(one).split(". ")[-1] for one in wanted])


def ratio(numerators: np.ndarray, denominators: np.ndarray, axis: int = -1) -> np.ndarray:
    return numerators.sum(axis) / denominators.sum(axis)


def interval(scores: Scores, of: Callable = ratio) -> list[float]:
    """95 % interval by bootstrap over items (percentiles of 5,000 draws)."""
    if len(scores) < 2 or np.all(scores[:, 0] * scores[0, 1] == scores[0, 0] * scores[:, 1]):
        return [float(of(*scores.T))] * 2  # all scores are equal, and so are all draws
    drawn = bootstrap(
        tuple(scores.T), of, paired=True, vectorized=True, n_resamples=5000, method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return [float(drawn.low), float(drawn.high)]


def row(
    metric: str,
    measured: Scores,
    control: Scores,
    rival: Scores | None,
    names: tuple[str, str],
    chance: float | None = None,
) -> dict[str, Any]:
    """
    Args:
        names: short names of the rival and the control.

    Returns: `{metric, rival, control, n, interval, over_control, over_control_interval, ...}`; `over_control` is the
    difference to the control, paired by items.
    """
    both = np.concatenate([measured, control], 1)
    found = {
        metric: float(ratio(*measured.T)),
        "rival": None if rival is None else float(ratio(*rival.T)),
        "control": float(ratio(*control.T)),
        "n": len(measured),
        "interval": interval(measured),
        "over_control": float(_difference(*both.T)),
        "over_control_interval": interval(both, _difference),
        "rival_is": names[0],
        "control_is": names[1],
    }
    if rival is not None:
        found["rival_interval"] = interval(rival)
    return found if chance is None else {**found, "chance": chance}


def _difference(a: np.ndarray, n: np.ndarray, b: np.ndarray, m: np.ndarray, axis: int = -1) -> np.ndarray:
    return ratio(a, n, axis) - ratio(b, m, axis)
