"""Results: a file for each seed of a system, and `results.json`, the page and the docs' tables made from them."""

import ast
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from . import page
from .claims import Claim, Replica, pool


HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
EXAMPLES_KEPT = 8
COLUMNS = ("system", "claim", "measured", "control", "better by (95%)", "each seed", "chance", "seeds", "answers",
           "holds", "the control")  # fmt: skip
TABLE = re.compile(r"^\| system .*?(?=\n\n)", re.DOTALL | re.MULTILINE)  # in docs/replicas.md, both of them
NUMBERS = {2, 3, 4, 5, 6, 7, 8}  # columns


# --- one seed of one system ------------------------------------------------------------------------------------------------


def settings(system: str, scale: float) -> dict:
    """A run's settings: its scale, and the code of the scripts without comments and docstrings."""
    world = [file for file in sorted((HERE.parent / "digits_world").glob("*.py")) if file.stem != "page"]
    scripts = [HERE / f"{system}.py", HERE / "lab.py", HERE.parent / "quickstart.py", *world]
    code = "".join(ast.dump(_Code().visit(ast.parse(file.read_text("utf-8")))) for file in scripts)
    return {"scale": scale, "code": hashlib.sha256(code.encode()).hexdigest()}


class _Code(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) else node


def save(file: Path, replica: Replica, seconds: float, own: dict) -> None:
    """`seconds`: of one core; `own`: the run's settings."""
    claims = [
        {**asdict(claim), "examples": claim.examples[:EXAMPLES_KEPT],
         **{name: getattr(claim, name).astype(float).tolist() for name in ("measured", "control", "chance")}}
        for claim in replica.claims
    ]  # fmt: skip
    logs = {stage: [{"loss": entry["loss"]} for entry in log] for stage, log in replica.logs.items()}
    text = json.dumps({"settings": own, "seconds": seconds, "logs": logs, "claims": claims})
    file.with_suffix(".part").write_text(text, "utf-8")
    file.with_suffix(".part").replace(file)  # so that a file that exists is complete


def load(file: Path, own: dict) -> dict | None:
    """The saved run; None if there is none with these settings."""
    run = json.loads(file.read_text("utf-8")) if file.exists() else {"settings": None}
    if run["settings"] != own:
        return None
    return {**run, "claims": [Claim(**claim) for claim in run["claims"]]}


def run_file(output: Path, system: str, seed: int) -> Path:
    return output / system / f"seed-{seed}" / "found.json"


# --- all of them -----------------------------------------------------------------------------------------------------------


def collect(output: Path, systems, scale: float) -> tuple[dict, dict]:
    """All seeds that were run with the present settings.

    Returns: system -> {"seconds": of a seed, "claims": name -> row}; and system -> seed -> run.
    """
    pooled, runs = {}, {}
    for system in systems:
        own = settings(system, scale)
        seeds = sorted(int(file.parent.name[5:]) for file in (output / system).glob("seed-*/found.json"))
        found = {seed: run for seed in seeds if (run := load(run_file(output, system, seed), own))}
        if found:
            named = {seed: {claim.name: claim for claim in run["claims"]} for seed, run in found.items()}
            names = list(named[min(found)])
            claims = {name: pool({seed: named[seed][name] for seed in found}) for name in names}
            seconds = float(np.mean([run["seconds"] for run in found.values()]))
            pooled[system], runs[system] = {"seconds": round(seconds), "claims": claims}, found
    return pooled, runs


def write(output: Path, systems, scale: float) -> dict:
    """Writes `results.json` for scripts, and `index.html` for people. Returns the former."""
    pooled, runs = collect(output, systems, scale)
    (output / "results.json").write_text(json.dumps(_rounded(pooled), indent=1), "utf-8")
    page.write(output / "index.html", pooled, runs)
    return pooled


def rows(pooled: dict) -> list[tuple[str, ...]]:
    """A line for each claim, by `COLUMNS`."""
    lines = []
    for system, found in pooled.items():
        for name, row in found["claims"].items():
            measured = [seed[0] for seed in row["seeds"].values()]
            low, high = row["interval"]
            lines.append(
                (system, name + (" (less is better)" if row["better"] == "lower" else ""), f"{row['measured']:.1%}",
                 f"{row['control']:.1%}", f"{100 * row['better_by']:.1f} ({100 * low:.1f} to {100 * high:.1f})",
                 f"{min(measured):.1%} to {max(measured):.1%}", f"{row['chance']:.1%}", str(len(measured)),
                 str(row["answers"]), "yes" if row["holds"] else "no", _control(row))
            )  # fmt: skip
    return lines


def _control(row: dict) -> str:
    return row["without"] + (f"; at most {-100 * row['margin']:.0f} points worse" if row["margin"] < 0 else "")


def table(pooled: dict) -> str:
    """All claims, a line each, for a terminal."""
    lines = [COLUMNS, *rows(pooled)]
    widths = [max(len(row[i]) for row in lines) for i in range(len(COLUMNS))]
    text = [
        "  ".join(
            cell.rjust(width) if i in NUMBERS else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in lines
    ]
    text.insert(1, "-" * max(map(len, text)))
    times = ", ".join(f"{system} {found['seconds']} s of one core a seed" for system, found in pooled.items())
    return "\n".join([*text, f"({times})"])


# --- documentation ---------------------------------------------------------------------------------------------------------


def write_docs(output: Path, docs: Path = DOCS) -> None:
    """Writes figures into `replicas.json`, where other systems' stay, and into the tables of `replicas.md`."""
    file = docs / "replicas.json"
    kept = json.loads(file.read_text("utf-8")) if file.exists() else {}
    found = kept | json.loads((output / "results.json").read_text("utf-8"))
    found = {system: found[system] for system in sorted(found)}
    file.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    page_file, new = docs / "replicas.md", iter(tables(found))
    page_file.write_text(TABLE.sub(lambda _: next(new), page_file.read_text("utf-8"), count=2), "utf-8")


def tables(pooled: dict) -> list[str]:
    """The tables of `docs/replicas.md`: all claims, and the time of each system."""
    took = [
        (system, str(len(next(iter(found["claims"].values()))["seeds"])), str(found["seconds"]))
        for system, found in pooled.items()
    ]
    return [
        _markdown(COLUMNS, map(_emphasised, rows(pooled)), NUMBERS),
        _markdown(("system", "seeds that were run", "seconds of one core a seed"), took, {1, 2}),
    ]


def _markdown(head: tuple[str, ...], lines: Iterable[tuple[str, ...]], numbers: set[int]) -> str:
    marks = ["--:" if i in numbers else "---" for i in range(len(head))]
    text = ["| " + " | ".join(row) + " |" for row in [head, *lines]]
    return "\n".join([text[0], f"|{'|'.join(marks)}|", *text[1:]])


def _emphasised(row: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(
        "**no**" if name == "holds" and cell == "no" else cell for name, cell in zip(COLUMNS, row, strict=True)
    )


def _rounded(value):
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value
