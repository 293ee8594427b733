"""Released checkpoints of others as checkpoints of this package: `convert`, or `anymodality convert` on the command line.

A conversion says where each tensor of a release goes (`Rule`) and what is composed for them to go into (`Plan`); the
rest is the same for all of them. Here are those of parts that any system may use; a published system has its own.
"""

from . import imagebind, imu2clip, perceiver_resampler  # noqa: F401 (they register)
from ._base import CONVERSIONS, Conversion, Options, Plan, Rule, find_tokenizer, register_conversion
from ._convert import Report, convert
from ._release import Release, Tensors
from .llama import llama_config, llama_rules


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
    "find_tokenizer",
    "llama_config",
    "llama_rules",
    "register_conversion",
]
