"""Which file may import which."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path


TESTS = Path(__file__).parent


def imported(path: Path) -> Iterator[str]:
    """Modules, and names out of modules, that a file imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def test_no_file_imports_from_a_test_module():
    """What several tests need has a file of its own, so that a test can be changed, or run, alone."""
    found = [
        f"{path.relative_to(TESTS)} imports {name}"
        for path in TESTS.rglob("*.py")
        for name in imported(path)
        if any(part.startswith("test_") for part in name.split(".")[:-1])
        or (name.rpartition(".")[2].startswith("test_") and name.startswith(("modeling_tests", ".")))
    ]
    assert not found, f"Move what is shared to a file of its own: {found}"
