"""Released checkpoints of published systems, as ours: `convert`, or `anymodality convert` on the command line."""

from . import anymal, cif, imagebind, imu2clip, macaw_llm, mplug_owl, pandagpt, x_llm  # noqa: F401 (they register)
from ._base import CONVERSIONS, Conversion, Options, Plan, Rule, register_conversion
from ._convert import Report, convert
from ._release import Release, Tensors


__all__ = [
    "CONVERSIONS",
    "Conversion",
    "Options",
    "Plan",
    "Release",
    "Report",
    "Rule",
    "Tensors",
    "convert",
    "register_conversion",
]
