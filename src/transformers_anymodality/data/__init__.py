"""Data as people have it: records of any kind as chats, files and shards, mixtures, and checks before training."""

from ._files import open_records
from ._records import normalize, split_markers
from .checking import Problem, Report, check
from .formats import FORMATS, convert_file, convert_records, register_format
from .loading import load, mixture
from .showing import look


__all__ = [
    "FORMATS",
    "Problem",
    "Report",
    "check",
    "convert_file",
    "convert_records",
    "load",
    "look",
    "mixture",
    "normalize",
    "open_records",
    "register_format",
    "split_markers",
]
