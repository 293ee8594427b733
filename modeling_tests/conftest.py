"""What every test runs under: no network, one seed."""

from __future__ import annotations

import os


os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

from modeling_tests import tiny


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared():
    """One composite with all six senses; tests that change it make their own."""
    return tiny.composite()
