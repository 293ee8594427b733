"""Errors that libtiff, inside Pillow, finds in a file. It only prints them to stderr, and often continues to decode."""

import ctypes
import re
import threading
from functools import cache
from typing import Any

from ..utils.imports import require


class _Heard(threading.local):
    def __init__(self):
        self.errors: list[str] = []


_heard = _Heard()


@ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
def _hear(module: bytes | None, text: bytes | None, values: Any) -> None:
    text = re.sub(rb"[ (]*%[-\d.l]*\w\)?|[.:]$", b"", text or b"")  # without the numbers in it
    _heard.errors.append(b": ".join(filter(None, (module, text))).decode("ascii", "replace"))


@cache
def _listen() -> None:
    library = ctypes.CDLL(require("PIL.Image").core.__file__)  # its dependencies are searched, too
    for name, handler in (("TIFFSetErrorHandler", _hear), ("TIFFSetWarningHandler", None)):
        setter = getattr(library, name, None)
        if setter is not None:  # None if Pillow was built without it, or hides it
            setter.argtypes = [ctypes.c_void_p]
            setter(ctypes.cast(handler, ctypes.c_void_p) if handler else None)


def heard() -> str:
    """Errors in this thread since the last call; empty if there are none."""
    _listen()
    errors, _heard.errors = _heard.errors, []
    return "; ".join(dict.fromkeys(errors[:3]))
