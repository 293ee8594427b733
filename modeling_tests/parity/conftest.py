"""Where recordings are, and models made of them by the real converters."""

from pathlib import Path

import pytest

from modeling_tests.parity.recordings import Recording, load_converted, write_release
from transformers_anymodality.conversion import convert


HERE = Path(__file__).parent


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
    """`converted("macaw_llm", folder)`: the model after the real converter and a reload by the Auto classes; instead of a
    folder, `config={...}` and tensors by the stems of their files."""

    def make(conversion: str, folder: Path | None = None, config: dict | None = None, files=None, **options):
        place = tmp_path / f"converted-{len(list(tmp_path.iterdir()))}"
        source = folder or write_release(place / "release", config, **files)
        convert(conversion, source, place / "ours", **options)
        return load_converted(place / "ours")

    return make
