"""The notebooks run from their first cell to their last, and what they teach is learnt."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest


FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells(notebook: Path, kind: str) -> list[dict]:
    document = json.loads(notebook.read_text(encoding="utf-8"))
    assert document["nbformat"] == 4
    return [cell for cell in document["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_python_without_outputs(notebook):
    for cell in cells(notebook, "code"):
        ast.parse("".join(cell["source"]))
        assert not cell["outputs"] and cell["execution_count"] is None, "clear the outputs before you commit"


@pytest.mark.slow
@pytest.mark.timeout(1800)  # two minutes on cores of its own
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_and_the_model_learns(notebook, tmp_path):
    """As a kernel runs them: one namespace, not a file (workers would run a file again). `found` holds the accuracy."""
    folder = tmp_path / "examples" / "notebooks"
    folder.mkdir(parents=True)
    (folder.parent / "digits_world").symlink_to(FOLDER.parent / "digits_world")
    code = "\n\n".join("".join(cell["source"]) for cell in cells(notebook, "code"))
    code += "\nassert min(found.values() if isinstance(found, dict) else [found]) > 0.6, found\n"
    run = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=1700)
    assert run.returncode == 0, run.stderr[-3000:]
