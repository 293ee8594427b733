"""Formats of published data, each in a file of its own; importing registers them."""

from . import llava, markers
from ._base import FORMATS, Format, convert_file, convert_records, register_format


__all__ = [
    "FORMATS",
    "Format",
    "convert_file",
    "convert_records",
    "llava",
    "markers",
    "register_format",
]
