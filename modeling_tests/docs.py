"""What README and documentation have in their blocks of shell lines."""

import re
import shlex
from pathlib import Path


ROOT = Path(__file__).parents[1]


def lines(*programs: str) -> list[list[str]]:
    """The words of each line in shell blocks whose first is one of these."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    blocks = [block for file in files for block in re.findall(r"```bash\n(.*?)```", file.read_text("utf-8"), re.S)]
    rows = [shlex.split(row, comments=True) for block in blocks for row in block.replace("\\\n", " ").splitlines()]
    return [row for row in rows if row and (not programs or row[0] in programs)]
