"""The table of docs/reliability.md, from the results in a folder."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


BEGIN, END = "<!-- results -->", "<!-- end of results -->"


def write(page: Path, folder: Path, names: Iterable[str]) -> None:
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{table(folder, names)}{END}{after}", encoding="utf-8")


def table(folder: Path, names: Iterable[str]) -> str:
    lines = ["| attack | tried | in a full run | survived | how |", "|---|---|---|---|---|"]
    for name in names:
        file = folder / f"{name}.json"
        if file.is_file():
            lines.append(row(json.loads(file.read_text())))
    return "\n".join(lines) + "\n"


def row(result: dict[str, Any]) -> str:
    ways = "; ".join(f"{count:,} {way}" for way, count in sorted(result["ways"].items(), key=lambda one: -one[1]))
    survived = "all" if result["survived"] == result["tried"] else f"{result['survived']:,}"
    return f"| {result['attack']} | {result['tried']:,} | {result['full']:,} | {survived} | {ways} |"
