"""Claims beside their controls, over several seeds: rates, intervals, whether they hold."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np


TIMES = 4000  # draws of a bootstrap


@dataclass
class Claim:
    """One claim of a paper, measured beside a control that could have refuted it, on the same questions.

    Args:
        name: short name of the claim.
        measured: a score of each question, (items,), 1 where it was answered well; or, for an error rate, (items, 2):
            errors, and the length of the right answer.
        control: as `measured`, for the same questions in the same order, without the thing that the claim rests on.
        chance: the score of guessing, between 0 and 1; or the scores of a guess at each question, as `measured`.
        without: short name of what the control lacks, or is.
        better: "higher" (accuracy) or "lower" (error rate).
        margin: least difference to the control; negative if it need only be about as good.
        examples: (chat, answer) pairs for the page.
    """

    name: str
    measured: Any
    control: Any
    chance: Any
    without: str
    better: str = "higher"
    margin: float = 0.0
    examples: list[tuple[dict, str]] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if self.better not in ("higher", "lower"):
            raise ValueError(f"{self.name}: better is 'higher' or 'lower', not {self.better!r}")
        self.measured, self.control, self.chance = map(np.asarray, (self.measured, self.control, self.chance))
        shapes = {"control": self.control.shape, **({"chance": self.chance.shape} if self.chance.ndim else {})}
        if wrong := {name: shape for name, shape in shapes.items() if shape != self.measured.shape}:
            raise ValueError(f"{self.name}: scores of the same questions are compared, but {self.measured.shape} "
                             f"were measured beside {wrong}")  # fmt: skip
        if not len(self.measured) or self.measured.shape[1:] not in ((), (2,)):
            raise ValueError(f"{self.name}: scores are (items,) or (items, 2), not {self.measured.shape}")

    def sums(self) -> np.ndarray:
        """Numerator and denominator of each question, of measured, control and chance: (items, 3, 2)."""
        return np.stack(
            [_pairs(scores, len(self.measured)) for scores in (self.measured, self.control, self.chance)], 1
        )


@dataclass
class Replica:
    """One seed of a system: its claims, and the Trainer's log of each stage."""

    claims: list[Claim]
    logs: dict[str, list[dict]]


def pool(claims: dict[int, Claim]) -> dict:
    """One claim over all seeds: `seed -> claim` into a row of `results.json`.

    Rates are sums of scores over all questions of all seeds. Intervals of 95 % are from a paired bootstrap: seeds are drawn
    with replacement, then questions within each seed, with the scores of both sides. So an interval covers the variation
    over seeds and over questions. (With one seed: over questions only.)
    """
    first, runs = next(iter(claims.values())), [claim.sums() for claim in claims.values()]
    sign = 1 if first.better == "higher" else -1
    drawn, found = rates(resample(runs)), rates(np.concatenate(runs).sum(0))
    over_control, over_chance = (sign * (drawn[:, 0] - drawn[:, i]) for i in (1, 2))
    row = {
        **dict(zip(("measured", "control", "chance"), found.tolist(), strict=True)),
        "measured_interval": interval(drawn[:, 0]),
        "control_interval": interval(drawn[:, 1]),
        "better": first.better,
        "better_by": float(sign * (found[0] - found[1])),
        "interval": interval(over_control),
        "over_chance": interval(over_chance),
        "margin": first.margin,
        "answers": sum(map(len, runs)),
        "seeds": {seed: rates(claim.sums().sum(0))[:2].tolist() for seed, claim in claims.items()},
        "without": " / ".join(dict.fromkeys(claim.without for claim in claims.values())),
    }
    return {**row, "holds": row["interval"][0] > first.margin and row["over_chance"][0] > 0}


def resample(runs: list[np.ndarray], times: int = TIMES) -> np.ndarray:
    """Draws seeds, and items within each seed, as many as there are of both.

    Args:
        runs: of each seed, (items, 3, 2).

    Returns: sums over the draws, (times, 3, 2).
    """
    rng = np.random.default_rng(0)
    totals = np.zeros((times, 3, 2))
    for _ in runs:
        chosen = rng.integers(len(runs), size=times)
        for seed, run in enumerate(runs):
            mine = np.flatnonzero(chosen == seed)
            counts = rng.multinomial(len(run), np.full(len(run), 1 / len(run)), size=len(mine))
            totals[mine] += np.tensordot(counts, run, 1)
    return totals


def rates(sums: np.ndarray) -> np.ndarray:
    """(..., 2) into (...)."""
    return sums[..., 0] / sums[..., 1]


def interval(drawn: np.ndarray) -> list[float]:
    """The middle 95 %."""
    return np.percentile(drawn, [2.5, 97.5]).tolist()


def _pairs(scores: np.ndarray, items: int) -> np.ndarray:
    """Scores, (items,) or (items, 2), or one for all items, as (items, 2)."""
    if scores.ndim == 2:
        return scores.astype(float)
    return np.stack([np.broadcast_to(scores, items), np.ones(items)], axis=1).astype(float)
