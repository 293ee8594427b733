"""Published systems by name: each a function that gives what `compose` takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._registry import Registry


SYSTEMS: Registry[Callable[..., dict[str, Any]]] = Registry("system")


def register_system(preset: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Function decorator: makes a preset known by the function's name."""
    return SYSTEMS.register(preset.__name__, preset)
