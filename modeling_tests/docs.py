"""What README and documentation have in their blocks of code and shell lines."""

import re
import shlex
from pathlib import Path


ROOT = Path(__file__).parents[1]
README = "README.md"


def pages() -> dict[str, Path]:
    """README.md, and the pages of the documentation by their place in `docs`."""
    folder = ROOT / "docs"
    found = sorted(folder.rglob("*.md"))
    return {README: ROOT / README} | {file.relative_to(folder).as_posix(): file for file in found}


def blocks(page: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", pages()[page].read_text("utf-8"), re.S | re.M)


def block(page: str, holding: str) -> str:
    """The one Python block of a page that holds this text."""
    (found,) = (one for one in blocks(page) if holding in one)
    return found


def lines(*programs: str) -> list[list[str]]:
    """The words of each line in shell blocks whose first is one of these."""
    rows = [
        shlex.split(row, comments=True)
        for page in pages()
        for shell in blocks(page, "bash")
        for row in shell.replace("\\\n", " ").splitlines()
    ]
    return [row for row in rows if row and (not programs or row[0] in programs)]
