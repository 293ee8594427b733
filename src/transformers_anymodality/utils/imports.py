"""Imports of optional packages, with errors that name the command to install them."""

import importlib
import sys
from collections.abc import Callable
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from types import ModuleType
from typing import Any


# Top-level module -> (extra of this package that installs it, name of its distribution).
_OPTIONAL = {
    "PIL": ("image", "pillow"),
    "soxr": ("audio", "soxr"),
    "torchaudio": ("audio", "torchaudio"),
    "av": ("audio,video", "av"),
    "pyarrow": ("signal", "pyarrow"),
    "pypdfium2": ("pdf", "pypdfium2"),
    "wfdb": ("wfdb", "wfdb"),
}


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


@cache
def require(module: str, extra: str | None = None) -> ModuleType:
    """Imports an optional module.

    Args:
        module: dotted name, such as `"soxr"` or `"PIL.Image"`.
        extra: the extra of this package that installs it; known for modules that this package uses.

    Raises:
        ImportError: it is not installed; the message has the command to install it. Or it is installed and fails to load;
            the message names its version and torch's, because packages that were built for another torch fail with
            `OSError` or `RuntimeError`.
    """
    top = module.partition(".")[0]
    known_extra, distribution = _OPTIONAL.get(top, (top, top))
    wanted = f'"transformers-anymodality[{extra or known_extra}]"'
    try:
        return importlib.import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name is not None and error.name.partition(".")[0] == top:
            trouble = f"`{module}` is needed here and is not installed. Install it with: pip install {wanted}"
        else:
            trouble = (
                f"`{module}` is installed but does not load ({type(error).__name__}: {error}). Found {distribution} "
                f"{_version(distribution)} with torch {_version('torch')}: install versions that fit together, for "
                f"example with: pip install --upgrade {wanted}"
            )
        raise ImportError(trouble, name=module) from error


def when_imported(name: str, act: Callable[[ModuleType], None]) -> None:
    """Calls `act` with a module as soon as other code imports it."""
    if name in sys.modules:
        act(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Watch(name, act))


class _Watch:
    """Finds a module as usual, and acts once it has run."""

    def __init__(self, name: str, act: Callable[[ModuleType], None]):
        self.name, self.act = name, act

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                self.act(module)

            spec.loader.exec_module = exec_module
        return spec
