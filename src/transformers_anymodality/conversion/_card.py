"""The card of a converted checkpoint: as any other, with what was not used and how exact it is."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..hub import Licences, write_card


if TYPE_CHECKING:
    from ._base import Plan
    from ._report import Report


def write_conversion_card(folder: Path, report: Report, plan: Plan) -> None:
    sections = {
        "Tensors of the release that are not used": _unused(report),
        "Against the original": _exactness(report),
    }
    write_card(
        folder,
        name=report.output.name,
        licences=Licences(plan.licence, notes=["The weights keep the licence of the release."]),
        tags=[report.system],
        summary=f"Converted from the release of {report.system} by `anymodality convert {report.system}`: "
        f"{report.parameters:,} parameters from {report.used:,} tensors.",
        sections={title: text for title, text in sections.items() if text},
        limits=report.notes,
        origin="the release",
    )


def _unused(report: Report) -> str:
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, reason in report.unused.items():
        reasons[reason].append(name)
    rows = [f"| {len(names)} | `{names[0]}`{', ...' if names[1:] else ''} | {why} |" for why, names in reasons.items()]
    return "\n".join(["| tensors | | why |", "|---|---|---|", *rows]) if rows else ""


def _exactness(report: Report) -> str:
    rows = [
        f"| `{c.name}` | not compared: {c.reason or 'no reason given'} | |"
        if c.largest is None
        else f"| `{c.name}` | {c.largest:.1e} | {'' if c.argmax is None else f'{c.argmax:.0%}'} |"
        for c in report.comparisons
    ]
    head = ["| recorded | largest difference | same argmax |", "|---|---|---|"]
    return "\n".join([*head, *rows]) if rows else ""
