"""Resolves a user's medium to a local file or to bytes in memory, within limits."""

import base64
import binascii
import os
import re
import stat
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes

from ._fetch import SHOWN, FetchError, fetch, url_name


SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
# Further keys of a dict with a medium: which part of the file is meant, and how to interpret its content.
TOLD = ("page", "dpi", "unit", "speed")


class MediaError(ValueError):
    """A medium cannot be read. The message names the source, what was expected, what was found, and the likely fix."""


@dataclass(frozen=True)
class Limits:
    """Upper limits that keep a hostile or wrong file from exhausting the machine.

    Attributes:
        max_bytes: bytes of an encoded source, and of the array decoded from it.
        max_pixels: pixels of one image or video frame. The default is Pillow's own limit; to go further, raise
            `PIL.Image.MAX_IMAGE_PIXELS`, too.
        max_seconds, max_frames: of a recording, video or animation.
        max_total_pixels: of all frames of a video or animation: all up to the last chosen one must be decoded.
    """

    max_bytes: int = 2 * 1024**3
    max_pixels: int = 178_956_970
    max_seconds: float = 3600.0
    max_frames: int = 100_000
    max_total_pixels: int = 10**12

    def check_pixels(self, width: int, height: int, name: str) -> None:
        if width < 1 or height < 1:
            raise MediaError(f"{name} has an empty frame ({width} x {height} pixels).")
        self.check("max_pixels", width * height, lambda: f"{name} has {width} x {height} pixels")

    def check_seconds(self, seconds: float, name: str) -> None:
        self.check("max_seconds", seconds, lambda: f"{name} lasts at least {seconds:.6g} s")

    def check_frames(self, count: int, name: str) -> None:
        self.check("max_frames", count, lambda: f"{name} has {count} frames or more")

    def check_area(self, count: int, width: int, height: int, name: str, times: int = 1) -> None:
        """Checks the pixels of `count` frames. `times`: how much slower than a video they decode."""

        def what() -> str:
            counted = f", each counted {times} times in an animation" if times > 1 else ""
            pixels = f"{width} x {height} pixels, {count * width * height} together{counted}"
            return f"{name} has {count} frames or more of {pixels}"

        self.check("max_total_pixels", count * width * height * times, what)

    def check(self, limit: str, value: float, what: Callable[[], str], remedy: str | None = None) -> None:
        """Raises MediaError for a value beyond the limit of that name. `what` gives the start of the message, and is called
        only then, to save time for each frame."""
        ceiling = getattr(self, limit)
        if not value <= ceiling:
            unit = " s" if limit == "max_seconds" else ""
            raise MediaError(
                f"{what()}, more than the limit of {ceiling:.16g}{unit}: {remedy or _REMEDIES[limit]}, or pass "
                f"limits=Limits({limit}=...) if you trust it."
            )


_REMEDIES = {
    "max_bytes": "split it",
    "max_pixels": "scale it down",
    "max_seconds": "cut it",
    "max_frames": "cut it",
    "max_total_pixels": "cut it, or scale it down",
}
DEFAULT_LIMITS = Limits()
# For files from unknown users: of the server and the chat page.
UPLOAD_LIMITS = Limits(64 * 1024**2, 25_000_000, max_seconds=120.0, max_frames=4000, max_total_pixels=4 * 10**9)


def describe(source: Any) -> str:
    """Names a source for an error message: short, and without the parts of a URL that may hold secrets."""
    if isinstance(source, (str, Path)):
        text = str(source)
        if is_data_uri(text):
            return f"data: URI ({text[5:].partition(',')[0][:40]}, {len(text)} characters)"
        if SCHEME.match(text):
            return url_name(text)
        return f"'{text if len(text) <= SHOWN else text[:SHOWN] + '...'}'"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"bytes object of length {len(source)}"
    if isinstance(source, Mapping):
        if source.get("bytes") is None and isinstance(source.get("path"), (str, Path)):
            return describe(source["path"])
        return f"dict with keys {sorted(map(str, source))}"
    if is_picture(source):
        return f"PIL image of mode {source.mode}, {source.width} x {source.height} pixels"
    if hasattr(source, "shape"):
        return f"array of shape {tuple(source.shape)}"
    name = getattr(source, "name", None)
    return f"{type(source).__name__} object" + (f" '{name}'" if isinstance(name, str) else "")


def told(source: Any) -> dict[str, Any]:
    """The keys of `TOLD` that a source has, with their values."""
    return {key: source[key] for key in TOLD if source.get(key) is not None} if isinstance(source, Mapping) else {}


def is_array(source: Any) -> bool:
    """Whether the source is a numpy array, a tensor or similar (anything with a shape and a dtype)."""
    return hasattr(source, "shape") and hasattr(source, "dtype")


def is_picture(source: Any) -> bool:
    """Whether the source is a PIL image; False if Pillow was not imported."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(source, pillow.Image)


@contextmanager
def opened(source: Path | BytesIO) -> Generator[BinaryIO]:
    """The source as a binary file at position 0; an in-memory source is rewound afterwards and not closed."""
    if isinstance(source, BytesIO):
        source.seek(0)
        try:
            yield source
        finally:
            source.seek(0)
    else:
        with source.open("rb") as file:
            yield file


def head(source: Path | BytesIO, size: int = 4096) -> bytes:
    with opened(source) as file:
        return file.read(size)


def open_source(source: Any, *, allow_urls: bool = False, limits: Limits = DEFAULT_LIMITS) -> Path | BytesIO:
    """Resolves a source to a file or buffer that a decoder can open.

    Args:
        source: path (`str` or `Path`, `~` expanded), `bytes`, a binary file object (read from its position), `data:`
            URI, `{"base64": str}`, or `{"path": ..., "bytes": ...}` as `datasets` gives undecoded media (bytes win).
            An http(s) URL only with `allow_urls`.
        allow_urls: fetch http(s) URLs. Off by default: the author of a URL can make this machine reach hosts.
        limits: upper limits; `max_bytes` is applied here.

    Returns:
        An existing, regular, non-empty file, or a `BytesIO` at position 0.

    Raises:
        MediaError: another source, or an empty one, or one larger than `limits.max_bytes`.
    """
    if isinstance(source, Mapping):
        text = source.get("base64")
        if isinstance(text, str) and not is_data_uri(text):
            return _in_memory(_decode_base64(text, "base64 text", limits), "base64 text", limits)
        given = [text if isinstance(text, str) else None, source.get("bytes"), source.get("path")]
        source = next((one for one in given if one is not None), source)
    if isinstance(source, Path):
        return _local_file(source, limits)
    name = describe(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _in_memory(bytes(source), name, limits)
    if isinstance(source, str):
        if is_data_uri(source):
            return _in_memory(_decode_data_uri(source, name, limits), name, limits)
        if scheme := SCHEME.match(source):
            return _in_memory(_fetched(source, scheme[1].lower(), name, allow_urls, limits), name, limits)
        return _local_file(source, limits)
    if hasattr(source, "read"):
        return _in_memory(_rest_of_file(source, name, limits), name, limits)
    raise MediaError(
        f"Cannot read a medium from a {name if isinstance(source, Mapping) else type(source).__name__}: expected a "
        'path, bytes, a binary file object, a data: URI, {"base64": str}, or {"path": ..., "bytes": ...} with one of '
        "the two given."
    )


def is_data_uri(text: str) -> bool:
    return text[:5].lower() == "data:"


def _in_memory(data: bytes, name: str, limits: Limits) -> BytesIO:
    if not data:
        raise MediaError(f"{name} is empty: expected an encoded medium.")
    _check_size(len(data), name, limits)
    return BytesIO(data)


def _check_size(size: int, name: str, limits: Limits) -> None:
    limits.check("max_bytes", size, lambda: f"{name} holds at least {size} bytes")


def _local_file(source: str | Path, limits: Limits) -> Path:
    path = os.path.expanduser(source)
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise MediaError(
            f"{describe(source)} does not exist: expected a local file (looked in {Path.cwd()})."
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error  # without the path, which may be very long
        raise MediaError(
            f"{describe(source)} cannot be opened as a local file ({reason}). If this is base64 text, pass it as "
            '{"base64": ...}.'
        ) from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise MediaError(f"{describe(source)} is {kind}: expected a regular file.")
    if status.st_size == 0:
        raise MediaError(
            f"{describe(source)} is empty (0 bytes): the download or export that made it probably failed."
        )
    limits.check("max_bytes", status.st_size, lambda: f"{describe(source)} holds {status.st_size} bytes")
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        raise MediaError(f"{describe(source)} cannot be read: {error.strerror or error}.") from error
    return Path(path)


def _fetched(url: str, scheme: str, name: str, allow_urls: bool, limits: Limits) -> bytes:
    if scheme == "file":
        raise MediaError(f"{name}: file:// URLs are refused; pass the plain local path.")
    if scheme not in ("http", "https"):
        raise MediaError(f"{name}: only http and https can be fetched; open it yourself and pass the file object.")
    if not allow_urls:
        raise MediaError(
            f"{name} is not fetched, because URLs are off by default. Pass allow_urls=True if you trust its author, "
            "or download it and pass the local path."
        )
    try:
        return fetch(url, limits.max_bytes)
    except FetchError as error:
        raise MediaError(str(error)) from error


def _rest_of_file(source: Any, name: str, limits: Limits) -> bytes:
    try:
        data = source.read(limits.max_bytes + 1)
    except (OSError, ValueError) as error:  # UnicodeDecodeError of a file in text mode is a ValueError
        raise MediaError(f"{name} cannot be read: {error}. Expected an open file in binary mode ('rb').") from error
    if not isinstance(data, (bytes, bytearray)):
        raise MediaError(f"{name} gave {type(data).__name__}, expected bytes: open the file in binary mode ('rb').")
    if not data:
        raise MediaError(f"{name} has nothing left to read: it is empty, or was read before (then call seek(0)).")
    return bytes(data)


def _decode_base64(text: str | bytes, name: str, limits: Limits) -> bytes:
    _check_size(len(text) * 3 // 4 - 3, name, limits)  # before it is decoded
    raw = re.sub(rb"\s+", b"", text.encode("utf-8") if isinstance(text, str) else text)
    try:
        return base64.b64decode(raw, validate=True)
    except binascii.Error as error:
        raise MediaError(f"{name} is not valid base64 ({error}): it may have been cut or wrongly escaped.") from error


def _decode_data_uri(uri: str, name: str, limits: Limits) -> bytes:
    header, comma, body = uri.partition(",")
    if not comma:
        raise MediaError(f"{name} holds no comma: expected data:[type][;base64],[data].")
    _check_size(len(body) // 4 - 1, name, limits)  # every byte may be escaped as three characters
    data = unquote_to_bytes(body)
    return _decode_base64(data, name, limits) if header.lower().endswith(";base64") else data
