"""Released checkpoints of published systems, as ours: `convert`, or `anymodality convert` on the command line."""

from . import imagebind, imu2clip, perceiver_resampler  # noqa: F401 (they register)
from ._base import CONVERSIONS, Conversion, Options, Plan, Rule, register_conversion
from ._convert import convert
from ._release import Release, Tensors
from ._report import Report


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
