"""The page of all claims: bars with intervals, a dot for each seed, answers, loss curves."""

import html
from pathlib import Path

from digits_world.page import STYLE, card, curve

from transformers_anymodality.data.figures import write_html


WIDE, SIDE = 260, 160  # pixels, of shares and of differences
OWN_STYLE = """
svg.bars{width:260px;height:44px} svg.gap{width:160px;height:44px} svg text{font-size:9px;fill:#5b6275}
.no{color:#b3261e}
"""


def write(file: Path, pooled: dict, runs: dict) -> None:
    """`pooled` and `runs` as `results.collect` returns them; answers and losses shown are the first seed's."""
    text = (
        "<p>Of each claim, above: what was measured; below: its control. Lines are 95 % intervals over seeds and "
        "questions, dots are seeds, the dashed line is chance. On the right, by how much it is better than the control; "
        "to hold, the interval must lie right of the red line.</p>"
    )
    for system, found in pooled.items():
        lines = "".join(_row(name, row) for name, row in found["claims"].items())
        head = "<tr><th>claim<th>measured<th>control<th>chance<th><th>better by<th>holds<th style='text-align:left'>control"
        first = next(iter(runs[system].values()))
        losses = "".join(curve(stage, log) for stage, log in first["logs"].items() if log)
        cards = "".join(
            f"<h3>{html.escape(claim.name)}</h3><div class=cards>{''.join(card(*one) for one in claim.examples)}</div>"
            for claim in first["claims"]
            if claim.examples
        )
        text += (
            f"<h2>{system} <small class=q>{len(runs[system])} seeds, {found['seconds']} s of one core each</small></h2>"
            f"<table>{head}{lines}</table><h3>Loss</h3>{losses}{cards}"
        )
    write_html(file, "Five papers at small scale", text, STYLE + OWN_STYLE)


def _row(name: str, row: dict) -> str:
    less = " <small class=q>less is better</small>" if row["better"] == "lower" else ""
    low, high = (100 * end for end in row["interval"])
    return (
        f"<tr><td>{html.escape(name)}{less}<td>{row['measured']:.1%}<td>{row['control']:.1%}<td>{row['chance']:.1%}"
        f"<td>{_bars(row)}<td>{_gap(row)}<br><small class=q>{100 * row['better_by']:.1f} ({low:.1f} to {high:.1f})</small>"
        f"<td class={'right' if row['holds'] else 'no'}>{'✓' if row['holds'] else '✗'}"
        f"<td style='text-align:left'>{html.escape(row['without'])}"
    )


def _bars(row: dict) -> str:
    """Two bars of shares, an error rate above 1 being cut."""

    def at(share: float) -> float:
        return WIDE * min(max(share, 0), 1)

    shapes = ""
    for side, (kind, colour) in enumerate({"measured": "#9cc0f0", "control": "#d5d8e0"}.items()):
        top, (low, high) = 4 + 20 * side, row[f"{kind}_interval"]
        shapes += (
            f"<rect x=0 y={top} width={at(row[kind]):.1f} height=14 fill='{colour}'/>"
            f"<line x1={at(low):.1f} x2={at(high):.1f} y1={top + 7} y2={top + 7} stroke='#1f2a44' stroke-width=2 />"
        )
        shapes += "".join(
            f"<circle cx={at(seed[side]):.1f} cy={top + 7} r=2.5 fill='#1f2a44' fill-opacity=.6 />"
            for seed in row["seeds"].values()
        )
    chance = at(row["chance"])
    line = f"<line x1={chance:.1f} x2={chance:.1f} y1=0 y2=44 stroke='#5b6275' stroke-dasharray='3 2'/>"
    return f"<svg class=bars viewBox='0 0 {WIDE} 44'>{shapes}{line}</svg>"


def _gap(row: dict) -> str:
    """The interval of the difference, beside the margin above which it must lie."""
    reach = 1.1 * max(0.05, *map(abs, (*row["interval"], row["margin"])))

    def at(share: float) -> float:
        return SIDE * (share / reach + 1) / 2

    low, high = map(at, row["interval"])
    return (
        f"<svg class=gap viewBox='0 0 {SIDE} 44'><line x1=0 x2={SIDE} y1=22 y2=22 stroke='#e3e5ec'/>"
        f"<line x1={at(row['margin']):.1f} x2={at(row['margin']):.1f} y1=6 y2=38 stroke='#b3261e'/>"
        f"<line x1={low:.1f} x2={high:.1f} y1=22 y2=22 stroke='#1f2a44' stroke-width=3 />"
        f"<circle cx={at(row['better_by']):.1f} cy=22 r=4 fill='#3b7dd8'/></svg>"
    )
