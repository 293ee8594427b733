"""The benchmarks run, on tiny models; what they find is nothing to assert."""

import math
from importlib import import_module

import pytest
from benchmarks import __main__ as benches
from benchmarks._ratio import TINY, Result


pytest.importorskip("soundfile")
pytest.importorskip("av")
# They start processes, which import all anew, or are slow by what they compare with.
SLOW = ("load", "memory", "processing", "starting", "systems")


@pytest.mark.parametrize(
    "script", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in benches.SCRIPTS]
)
def test_each_script_measures_its_goals(script):
    results = list(import_module(f"benchmarks.{script}").measure(TINY))
    assert results
    for result in results:
        assert 1 <= result.goal <= 14
        assert all(math.isfinite(ratio) for ratio in result.ratios), result


@pytest.mark.parametrize(("at_least", "met"), [(False, "no"), (True, "yes")])
def test_the_table_tells_what_was_met(at_least, met, tmp_path):
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{benches.BEGIN}\nold\n{benches.END}\nafter\n")
    benches.write([Result(3, "forward", "a rival", [1.2, 1.0, 1.4], 1.01, at_least)], "by hand", page)
    text = page.read_text()
    assert text.startswith("before") and text.endswith("after\n") and "old" not in text
    assert f"| 3 | forward | a rival | 1.2 | 1 to 1.4 | {'>=' if at_least else '<='} 1.01 | {met} |" in text
