"""`docs/tools.md`: each row of its table names a test that is there."""

import re
from itertools import dropwhile, takewhile
from pathlib import Path


TESTS = Path(__file__).parent
TABLE = (TESTS.parent / "docs" / "tools.md").read_text(encoding="utf-8")


def test_each_tool_has_a_test():
    is_row = re.compile(r"\|").match
    first = takewhile(is_row, dropwhile(lambda line: not is_row(line), TABLE.splitlines()))
    rows = [line.strip("|").split("|") for line in first][2:]
    assert rows
    for tool, version, _, tests in rows:
        assert version.strip(), tool
        named = re.findall(r"`([\w/.]+\.py)::(\w+)`", tests)
        assert named, f"{tool}: no test is named"
        for file, name in named:
            assert f"def {name}(" in (TESTS / file).read_text(encoding="utf-8"), f"{tool}: {file}::{name}"
