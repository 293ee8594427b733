"""What reading a medium may cost, how it fails, and how errors name it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")


_SHOWN = 120  # characters of a source that an error message repeats


class MediaError(ValueError):
    """A medium cannot be read. The message names the source, what was expected, what came and the likely fix."""


@dataclass(frozen=True)
class Limits:
    """Ceilings that keep a hostile or mistaken file from exhausting the machine.

    Attributes:
        max_bytes: bytes of an encoded source, and of the array decoded from it.
        max_pixels: pixels of one image or video frame. The default is the figure beyond which Pillow refuses an
            image by itself; to go further, raise `PIL.Image.MAX_IMAGE_PIXELS` too.
        max_seconds: duration of a recording or video.
        max_frames: frames of a video or animation.
    """

    max_bytes: int = 2 * 1024**3
    max_pixels: int = 178_956_970
    max_seconds: float = 3600.0
    max_frames: int = 100_000


DEFAULT_LIMITS = Limits()


def describe(source: Any) -> str:
    """Name a source for an error message: short, and without the parts of a URL that may hold secrets."""
    if isinstance(source, (str, Path)):
        text = str(source)
        if text[:5].lower() == "data:":
            return f"data: URI ({text[5:].partition(',')[0][:40]}, {len(text)} characters)"
        if _SCHEME.match(text):
            return f"URL {_public_url(text)}"
        return f"'{text if len(text) <= _SHOWN else text[:_SHOWN] + '...'}'"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"bytes object of length {len(source)}"
    if isinstance(source, Mapping):
        if source.get("bytes") is None and isinstance(source.get("path"), (str, Path)):
            return describe(source["path"])
        return f"dict with keys {sorted(map(str, source))}"
    if hasattr(source, "shape"):
        return f"array of shape {tuple(source.shape)}"
    name = getattr(source, "name", None)
    return f"{type(source).__name__} object" + (f" '{name}'" if isinstance(name, str) else "")


def _public_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"[:_SHOWN]
    except ValueError:
        return url.partition("://")[0] + "://(malformed)"
