"""Recordings of the original code: weights in the released layout, inputs, and what came out of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from transformers_anymodality.conversion import CONVERSIONS, convert
from transformers_anymodality.conversion._recordings import as_long, difference, load_converted, reason_for


HERE = Path(__file__).parent


class Recording:
    """One folder: its config, inputs and outputs, and how ours compares with each of these."""

    def __init__(self, folder: Path):
        self.folder, self.name = folder, folder.name
        self.config = json.loads((folder / "config.json").read_text())
        self.inputs, self.outputs = (load_file(folder / f"{part}.safetensors") for part in ("inputs", "outputs"))
        self.rows: dict[str, tuple] = {}
        self.wrong: list[str] = []

    def check(self, name: str, ours: torch.Tensor, atol: float = 1e-4, rtol: float = 1e-4) -> None:
        theirs = self.outputs[name]
        ours = as_long(name, ours, theirs)
        found = difference(name, ours.detach().reshape(theirs.shape), theirs)
        self.rows[name] = (self.name, name, found.largest, found.relative, "")
        if not torch.allclose(ours.reshape(theirs.shape).double(), theirs.double(), atol=atol, rtol=rtol):
            self.wrong.append(f"{name} differs by {found.largest:.1e}")

    def skip(self, name: str, reason: str) -> None:
        self.rows[name] = (self.name, name, None, None, reason)

    def replay(self, system: str, model, **tolerance) -> None:
        """Compares every recorded tensor with what the converted model gives, and finishes."""
        conversion = CONVERSIONS[system]
        for name, ours in conversion.replay(model, self.config, self.inputs):
            if name in self.outputs:
                self.check(name, ours, **tolerance)
        for name in set(self.outputs) - set(self.rows):
            if reason := reason_for(conversion, name):
                self.skip(name, reason)
        self.finish()

    def finish(self) -> None:
        """Fails for a tensor that differs, and for one that was neither compared nor named with a reason."""
        left = sorted(set(self.outputs) - set(self.rows))
        assert not self.wrong, "; ".join(self.wrong)
        assert not left, f"{self.name}: recorded, but not compared: {', '.join(left)}"


@pytest.fixture
def recording(request):
    """`recording("macaw")`: the recording of that name; skips the test if `--parity-fixtures` lacks it."""
    made: list[Recording] = []

    def find(name: str) -> Recording:
        given = request.config.getoption("--parity-fixtures")
        folder = (HERE if given is None else Path(given)) / name
        if not folder.is_dir():
            pytest.skip(f"{folder} does not exist")
        made.append(Recording(folder))
        return made[-1]

    yield find
    rows = [row for recording in made for row in recording.rows.values()]
    request.node.user_properties.append(("parity", rows))


@pytest.fixture
def converted(tmp_path):
    """`converted(recording, "macaw_llm")`: the model after the real converter and a reload by the Auto classes."""

    def make(recording: Recording, system: str, **options):
        output = tmp_path / f"{recording.name}-{len(list(tmp_path.iterdir()))}"
        convert(system, recording.folder, output, **options)
        return load_converted(output)

    return make
