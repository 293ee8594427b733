"""A saved checkpoint, and a copy to damage."""

import json
import shutil
from pathlib import Path

import pytest

from modeling_tests import tiny


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("composite")
    model, processor = tiny.composite()
    model.save_pretrained(folder, processor=processor)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def edit(file: Path, change) -> Path:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return file.parent
