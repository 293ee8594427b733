"""The range of versions that is declared is the range that is tested."""

import re
import tomllib
from pathlib import Path

import pytest
import transformers
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from transformers_anymodality.utils import upstream


ROOT = Path(__file__).parents[1]


def requirements() -> dict[str, Requirement]:
    """Every requirement of the package and its extras but those on itself, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    found = [Requirement(line) for line in lines]
    return {canonicalize_name(one.name): one for one in found if one.name != project["name"]}


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "constraints" / name).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(package): version for package, version in pairs}


def test_the_oldest_versions_are_the_lower_bounds():
    bounds = {}
    for name, requirement in requirements().items():
        (bounds[name],) = [one.version for one in requirement.specifier if one.operator in (">=", "==")]
    assert pins("oldest.txt") == bounds


def test_the_tested_versions_are_allowed():
    tested = pins("tested.txt")
    for name, requirement in requirements().items():
        assert requirement.specifier.contains(tested[name]), name
    assert Version(tested["transformers"]).release[:2] == Version(upstream.NEWEST_TESTED).release


def test_constraints_hold_versions_alone():
    for file in (ROOT / "constraints").glob("*.txt"):
        for line in file.read_text(encoding="utf-8").splitlines():
            assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.!+-]+", line), line


@pytest.mark.parametrize(("version", "lines"), [("5.24.9", 0), ("5.25.0", 1), ("6.0.0.dev0", 1)])
def test_a_newer_transformers_gives_one_line(version, lines, monkeypatch):
    warned = []
    monkeypatch.setattr(transformers, "__version__", version)
    monkeypatch.setattr(upstream.logging, "get_logger", lambda name: type("L", (), {"warning": warned.append}))
    upstream.warn_if_untested()
    assert len(warned) == lines
    assert all(version in line and "\n" not in line for line in warned)
