"""Published systems as presets: `compose(**pandagpt())`."""

from ._base import SYSTEMS, register_system
from .anymal import anymal
from .macaw_llm import macaw_llm
from .mplug_owl import mplug_owl
from .pandagpt import pandagpt
from .x_llm import x_llm


__all__ = [
    "SYSTEMS",
    "anymal",
    "macaw_llm",
    "mplug_owl",
    "pandagpt",
    "register_system",
    "x_llm",
]
