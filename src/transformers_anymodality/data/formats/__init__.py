"""Formats of published data, each in a file of its own; importing registers them."""

from . import llava, markers
from ._base import (
    FORMATS,
    Format,
    chat,
    convert_file,
    convert_records,
    listed,
    places,
    register_format,
    words,
)


__all__ = [
    "FORMATS",
    "Format",
    "chat",
    "convert_file",
    "convert_records",
    "listed",
    "llava",
    "markers",
    "places",
    "register_format",
    "words",
]
