"""What every test runs under: no network, one seed. And the table of recorded tensors at the end."""

import importlib
import os
import sys
from pathlib import Path


os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch


# The assertions of shared checks, too, say what they compared.
pytest.register_assert_rewrite(
    *(f"modeling_tests.{name}" for name in ("checks", "language_model_cases", "tower_cases"))
)

from modeling_tests import tiny  # noqa: E402


def pytest_configure(config):
    """What Transformers announces today breaks in its next release: an error where `STRICT_WARNINGS` is set, as it is for
    changes of this package. The module is a regular expression matched from the start, so this covers ours, too."""
    if os.environ.get("STRICT_WARNINGS"):
        config.addinivalue_line("filterwarnings", "error::FutureWarning:transformers")
        # PEFT 0.21 still reads the old name: https://github.com/huggingface/peft
        config.addinivalue_line("filterwarnings", "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared():
    """One composite with all six modalities; tests that change it make their own."""
    return tiny.composite()


@pytest.fixture(scope="session")
def processor(shared):
    return shared[1]


@pytest.fixture(scope="session")
def movie(tmp_path_factory):
    """A video file of ten frames at uneven times."""
    from modeling_tests.media_files import LEVELS, STAMPS, write_video

    path = tmp_path_factory.mktemp("video") / "uneven.mp4"
    write_video(str(path), STAMPS, LEVELS)
    return path


@pytest.fixture(scope="module")
def real():
    """The modules of `examples/real` by name."""
    examples = str(Path(__file__).parents[1] / "examples")
    sys.path.insert(0, examples)
    names = (
        "answers convert ctranslate2 data dictation emoji examine fetch four_bits learn motion noise page recordings"
    )
    names += " results sentences splits stamps tasks texts voices words"
    yield type("real", (), {name: importlib.import_module(f"real.{name}") for name in names.split()})
    sys.path.remove(examples)


def pytest_addoption(parser):
    parser.addoption(
        "--parity-fixtures",
        metavar="DIR",
        help="compare with the recordings in DIR (folders of the same names) instead of those in modeling_tests/parity",
    )


def pytest_terminal_summary(terminalreporter):
    """Every recorded tensor with its largest difference to ours."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    properties = [entry for report in reports for entry in getattr(report, "user_properties", ())]
    rows = {tuple(row) for key, found in properties if key == "parity" for row in found}
    if not rows:
        return
    terminalreporter.section("recorded tensors: largest difference to ours")
    width = max(len(f"{folder}/{name}") for folder, name, *_ in rows)
    for folder, name, largest, relative, reason in sorted(rows, key=str):
        found = f"not compared: {reason}" if largest is None else f"{largest:.1e}  (relative {relative:.1e})"
        terminalreporter.write_line(f"{f'{folder}/{name}':<{width}}  {found}")
