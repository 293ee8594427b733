"""Training data: records of any format as chats, files and shards, mixtures, and checks before training."""

from .checking import Problem, Report, check
from .datasets import at_speeds, load, mixture, open_records
from .formats import FORMATS, convert_file, convert_records, register_format
from .records import Chat, normalize, read_chat, split_markers
from .showing import look


__all__ = [
    "FORMATS",
    "Chat",
    "Problem",
    "Report",
    "at_speeds",
    "check",
    "convert_file",
    "convert_records",
    "load",
    "look",
    "mixture",
    "normalize",
    "open_records",
    "read_chat",
    "register_format",
    "split_markers",
]
