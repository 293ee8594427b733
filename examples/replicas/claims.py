"""What a replica found: claims with their controls, as a table, a file and a page."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from digits_world import page


@dataclass
class Claim:
    """One claim of a paper, measured beside a control that could have refuted it.

    Args:
        name: the claim, in a few words.
        measured: what the replica reached, between 0 and 1.
        control: what the same reached without that on which the claim rests.
        chance: what guessing reaches.
        without: what the control lacked, or was, in a few words.
        better: "higher" (accuracy) or "lower" (error rate).
        margin: by how much it must be better than the control to hold; negative where it need only be as good.
        examples: (chat, answer) pairs for the page.
    """

    name: str
    measured: float
    control: float
    chance: float
    without: str
    better: str = "higher"
    margin: float = 0.05
    examples: list[tuple[dict, str]] = field(default_factory=list, repr=False)

    @property
    def holds(self) -> bool:
        """Better than the control by the margin, and than chance by at least 5 points."""
        sign = 1 if self.better == "higher" else -1
        beats_control = sign * (self.measured - self.control) >= self.margin
        return beats_control and sign * (self.measured - self.chance) >= 0.05


@dataclass
class Replica:
    """What a system's script returns: its claims, how training went, and how long all took."""

    claims: list[Claim]
    logs: dict[str, list[dict]]
    seconds: float = 0.0


def table(replicas: dict[str, Replica]) -> str:
    """All claims, a line each."""
    head = ("system", "claim", "measured", "control", "chance", "holds", "the control")
    rows = [
        (system, f"{claim.name}{'' if claim.better == 'higher' else ' (less is better)'}", f"{claim.measured:.1%}",
         f"{claim.control:.1%}", f"{claim.chance:.1%}", "yes" if claim.holds else "NO", claim.without)
        for system, replica in replicas.items()
        for claim in replica.claims
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    numbers = {2, 3, 4}
    lines = [
        "  ".join(
            cell.rjust(width) if i in numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    times = ", ".join(f"{system} {replica.seconds:.0f} s" for system, replica in replicas.items())
    return "\n".join([*lines, f"({times})"])


def write(folder: Path, replicas: dict[str, Replica]) -> None:
    """`results.json`, what scripts read, and `index.html`, what people do; runs of other systems are kept in the former."""
    file = folder / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    for system, replica in replicas.items():
        results[system] = {
            claim.name: {
                "measured": round(claim.measured, 4),
                "control": round(claim.control, 4),
                "chance": round(claim.chance, 4),
                "better": claim.better,
            }
            for claim in replica.claims
        }
    file.write_text(json.dumps(results, indent=2))
    page.write_claims(folder / "index.html", replicas)
