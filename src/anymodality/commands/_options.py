"""Options as rows: the name of the value, what it is."""

from __future__ import annotations

from typing import Any

import typer


def option(metavar: str | None, help: str, *names: str, **settings: Any) -> Any:
    """An option; None for a type whose values help lists."""
    return typer.Option(*names, metavar=metavar, help=help, **settings)


def flag(name: str, help: str) -> Any:
    """An option without a value."""
    return typer.Option(name, help=help)


def argument(metavar: str, help: str) -> Any:
    """A word that is not an option."""
    return typer.Argument(metavar=metavar, help=help, show_default=False)
