"""Published systems, a shelf each: `compose(**pandagpt())`.

What only one of them needs stands on its shelf: parts that no other system has, its prompts, how its release is converted
(`convert`), its data (`data_format`) and its benchmarks (`evaluation`). The last three are imported when they are asked
for by name. Shared code knows none of their names.
"""

from ..utils.registry import promise
from ._base import SYSTEMS, register_system
from .anymal import anymal
from .macaw_llm import macaw_llm
from .mplug_owl import mplug_owl
from .pandagpt import pandagpt
from .x_llm import x_llm


for _kind, _modules in {
    "conversion": ("macaw_llm.convert", "mplug_owl.convert", "pandagpt.convert", "x_llm.convert"),
    "format": tuple(f"{_name}.data_format" for _name in ("anymal", "macaw_llm", "mplug_owl", "pandagpt", "x_llm")),
    "suite": ("anymal.evaluation",),
    "task": tuple(f"{_name}.evaluation" for _name in ("anymal", "mplug_owl", "pandagpt", "x_llm")),
    "score": ("mplug_owl.evaluation", "x_llm.evaluation"),
}.items():
    promise(_kind, *(f"{__name__}.{_module}" for _module in _modules))

__all__ = [
    "SYSTEMS",
    "anymal",
    "macaw_llm",
    "mplug_owl",
    "pandagpt",
    "register_system",
    "x_llm",
]
