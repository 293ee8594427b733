"""Formats of published data, each in a file of its own; importing registers them."""

from . import anymal, llava, macaw_llm, markers, mplug_owl, pandagpt, x_llm
from ._base import FORMATS, Format, convert_file, convert_records, register_format


__all__ = [
    "FORMATS",
    "Format",
    "anymal",
    "convert_file",
    "convert_records",
    "llava",
    "macaw_llm",
    "markers",
    "mplug_owl",
    "pandagpt",
    "register_format",
    "x_llm",
]
