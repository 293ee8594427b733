"""`docs/architectures.md` says what the tables of the tests say."""

import pytest
import transformers

from modeling_tests import write_architectures as architectures


def test_the_page_is_written_from_the_tables():
    """But for how towers give their features, which takes a minute to find out."""
    page = architectures.PATH.read_text(encoding="utf-8")
    if f"Transformers {transformers.__version__} builds" not in page:
        pytest.skip(f"written on another Transformers than {transformers.__version__}, which has other models")
    written = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    assert architectures.language_models() in page
    expected = architectures.tower_tables(describe=lambda name: "").splitlines()
    rows = [line.split("|") for line in expected if line.startswith("| `")]
    known = {tuple(row[:3] + row[4:]) for row in written}
    assert not [row[1] for row in rows if tuple(row[:3] + row[4:]) not in known], (
        "run `python -m modeling_tests.write_architectures`"
    )
