"""Published systems, one folder each: `compose(**pandagpt())`.

A folder holds what only that system needs: its own parts, its prompts, the conversion of its release (`convert`), and its
data and benchmarks (`data`). Shared code does not know the systems' names."""

import importlib
import pkgutil

from ..utils.registry import LATER
from ._base import SYSTEMS, register_system
from .anymal import anymal
from .macaw_llm import macaw_llm
from .mplug_owl import mplug_owl
from .pandagpt import pandagpt
from .x_llm import x_llm


# Parts are registered now, because checkpoints name them. Conversions and data are registered when somebody looks one up.
for _module in pkgutil.walk_packages(__path__, f"{__name__}."):
    if _module.name.rpartition(".")[2].startswith(("convert", "data")):
        LATER.append(_module.name)
    else:
        importlib.import_module(_module.name)

__all__ = [
    "SYSTEMS",
    "anymal",
    "macaw_llm",
    "mplug_owl",
    "pandagpt",
    "register_system",
    "x_llm",
]
