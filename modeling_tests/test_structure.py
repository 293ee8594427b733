"""Which file may import which: the picture in CONTRIBUTING holds, and tests stand alone. And how long files may be."""

import ast
import runpy
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest


TESTS = Path(__file__).parent
ROOT = TESTS.parent
PACKAGE = "transformers_anymodality"


def imported(path: Path, module: str) -> Iterator[str]:
    """Modules, and names out of modules, that a file imports, also within functions."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base += node.module.split(".") if node.module else []
            yield from (".".join([*base, alias.name]) for alias in node.names)


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file."""
    names = {path: path.relative_to(root).with_suffix("").parts for path in root.rglob("*.py")}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): path for path, parts in names.items()}


def graph() -> dict[str, set[str]]:
    """Module of `src` -> modules of `src` that it imports."""
    files = modules(ROOT / "src")
    found: dict[str, set[str]] = {name: set() for name in files}
    for module, path in files.items():
        for name in imported(path, module):
            while name not in files and "." in name:
                name = name.rpartition(".")[0]
            if name in files and name != module:
                found[module].add(name)
    return found


def floors() -> dict[str, int]:
    """Folder -> floor, from the picture in CONTRIBUTING; the ground is 0."""
    picture = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```text\n")[1].split("```")[0]
    blocks = reversed(picture.strip().split("\n\n"))
    return {line.split()[0].rstrip("/"): floor for floor, block in enumerate(blocks) for line in block.splitlines()}


def folder(module: str) -> str:
    package, _, rest = module.partition(".")
    name = rest.partition(".")[0]
    if package != PACKAGE:
        return f"{package}/{name}" if name == "plain" else package
    return name if (ROOT / "src" / PACKAGE / name).is_dir() and name else f"{name or '__init__'}.py"


def test_imports_point_down():
    """Where one would point up, hand in what is needed as an argument, or let the upper folder register it."""
    floor, imports = floors(), graph()
    assert {folder(module) for module in imports} == set(floor), "CONTRIBUTING's picture has other folders than `src`"
    wrong = [
        f"{module} imports {name}"
        for module, names in imports.items()
        for name in names
        if folder(name) != folder(module) and floor[folder(name)] >= floor[folder(module)]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_files_import_each_other_in_a_circle():
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_no_file_imports_from_a_test_module():
    """What several tests need has a file of its own, so that a test can be changed, or run, alone."""
    tests = {f"modeling_tests.{name}": path for name, path in modules(TESTS).items()}
    found = [
        f"{module} imports {name}"
        for module, path in tests.items()
        for name in imported(path, module)
        if any(part.startswith("test_") for part in name.split(".")[:-1]) or name in tests and ".test_" in name
    ]
    assert not found, f"Move what is shared to a file of its own: {found}"


def test_files_have_fewer_than_400_lines_and_functions_than_60():
    """A function's docstring aside. Where a file grows longer, look for the seam in it."""
    long = []
    for path in modules(ROOT / "src").values():
        text = path.read_text(encoding="utf-8")
        if (count := text.count("\n")) >= 400:
            long.append(f"{path.relative_to(ROOT)} has {count} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                count = node.end_lineno + 1 - node.lineno
                if ast.get_docstring(node) is not None:
                    count -= node.body[0].end_lineno + 1 - node.body[0].lineno
                if count >= 60:
                    long.append(f"{path.relative_to(ROOT)}: {node.name} has {count} lines")
    assert not long, "\n".join(long)


def test_an_image_passes_thirteen_files_at_most():
    """On its way from a sample to the loss; whoever wants to follow it reads them all."""
    trace = runpy.run_path(str(ROOT / "benchmarks" / "trace.py"))
    files = trace["way_of_an_image"]()
    assert len(files) <= 13, "\n".join(files)
