"""Runs upstream's tests under our rules: left out, or skipped, only with a reason that is written down."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from modeling_tests.upstream import _package
from modeling_tests.upstream._reasons import LEFT_OUT, reason_for


HERE = Path(__file__).parent


def pytest_configure(config):
    for name in sorted(_package.markers()):
        config.addinivalue_line("markers", f"{name}: upstream's")


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            # Upstream tests what it deprecated, too.
            item.add_marker(pytest.mark.filterwarnings("default::FutureWarning"))
            if reason := reason_for(item.originalname, LEFT_OUT):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped and item.originalname.startswith("test_"):
        reason = reason_for(item.originalname)
        if reason is not None:
            report.longrepr = (str(item.path), item.location[1], reason)
        elif item.function.__module__ not in _package.CHECKOUT_ONLY:
            report.outcome = "failed"
            report.longrepr = f"Skipped for a reason that modeling_tests/upstream/_reasons.py lacks: {report.longrepr}"
    return report


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny models are slower on several threads, far slower beside other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_terminal_summary(terminalreporter):
    def ours(kind):
        reports = terminalreporter.stats.get(kind, [])
        return [report for report in reports if HERE.name in Path(report.nodeid.split("::")[0]).parts]

    skipped = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in ours("skipped"))
    counts = ", ".join(f"{len(ours(kind))} {kind}" for kind in ("passed", "failed", "error", "skipped"))
    terminalreporter.section("Transformers' own tests")
    terminalreporter.line(counts)
    for reason, count in skipped.most_common():
        terminalreporter.line(f"{count:4d} skipped: {reason}")
    if _package.LACKING:
        terminalreporter.line(
            f"not run, as the source distribution lacks them: {', '.join(_package.LACKING)}. "
            "`make test UPSTREAM_TESTS=DIR` runs them from a checkout of Transformers."
        )
