"""Every score as a module of `evaluate`, each in a folder of its own: `evaluate.load(metric_path("cider"))`, offline."""

from __future__ import annotations

from pathlib import Path

from ..scores import SCORES


def metric_path(name: str) -> str:
    """What `evaluate.load` takes for a score."""
    SCORES[name]  # raises for one that is not registered
    return str(Path(__file__).parent / name)
