"""Encoded sound and video: what is checked before any decoder sees them, and the decoders that are tried."""

import struct
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from ..utils.imports import require
from ..utils.upstream import is_torchcodec_usable
from ._source import MediaError, head, opened


# Demuxers that read one file. FFmpeg knows others that follow references to further files and addresses (HLS, DASH,
# concat, image2): an uploaded "video" of these kinds could read any file of the machine.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,wav,w64,aiff,flac,mp3,aac,ac3,eac3,"
    "amr,caf,au,h264,hevc,av1,obu,ivf,m4v,gif,apng,webp,webp_pipe,dv,mxf,rm,wv,ape,tta"
)
_UNKNOWN_SIZE = 0x7FFF0000  # writers to a pipe put this or a larger figure where they cannot know the size
_Decoded = TypeVar("_Decoded")
_PLAYLISTS = (b"#extm3u", b"ffconcat", b"<?xml", b"<mpd", b"<smil", b"[playlist]", b"v=0")


def check_recording(source: Path | BytesIO, name: str) -> None:
    """Refuse text, playlists, and containers whose own size fields say that the end is missing: decoders silently play
    what is left of a truncated WAV, AIFF, AVI, MP4 or Matroska file, so that its loss would never show."""
    start = head(source)
    stripped = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if stripped.startswith(_PLAYLISTS) or b"<mpd" in start.split(b"\0", 1)[0].lower() or _is_text(start):
        raise MediaError(
            f"{name} is text or a playlist, not a recording: expected an encoded audio or video file. Playlists are "
            "refused, as they make a decoder open other files and addresses."
        )
    with opened(source) as file:
        length = file.seek(0, 2)
        promised = _promised_length(file, start, length)
    # A missing pad byte at the very end is a common flaw that costs nothing.
    if promised is not None and promised > length + 1:
        raise MediaError(
            f"{name} is truncated: it holds {length} bytes and its own headers promise {promised}. Copy it again."
        )


def _is_text(start: bytes) -> bool:
    if any(byte < 9 or 13 < byte < 32 for byte in start):
        return False
    try:
        start[:-4].decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(start) - 8 and len(start) > 8
    return True


def _promised_length(file: BinaryIO, start: bytes, length: int) -> int | None:
    """Bytes the file must have by its own headers, or None where they do not say."""
    if start[:4] in (b"RIFF", b"FORM") and len(start) >= 12:
        size = struct.unpack("<I" if start[:4] == b"RIFF" else ">I", start[4:8])[0]
        return size + 8 if size < _UNKNOWN_SIZE else None
    if start[4:8] == b"ftyp":
        return _mp4_length(file, length)
    if start[:4] == b"\x1a\x45\xdf\xa3":
        return _matroska_length(start)
    return None


def _mp4_length(file: BinaryIO, length: int) -> int | None:
    position, complete = 0, False
    while position + 8 <= length:
        file.seek(position)
        header = file.read(16)
        size, kind = struct.unpack(">I4s", header[:8])
        if size == 1 and len(header) == 16:
            size = struct.unpack(">Q", header[8:])[0]
        if size == 0:  # "to the end of the file"
            return None
        if size < 8 or not all(32 <= byte < 127 or byte == 169 for byte in kind):
            return None  # not a box: trailing bytes of something else
        complete = complete or kind in (b"moov", b"moof")
        position += size
    # Without its index a recording was cut, or is still being written.
    return position if complete or position > length else max(position, length) + 8


def _matroska_length(start: bytes) -> int | None:
    def number(at: int) -> tuple[int, int] | None:
        if at >= len(start) or start[at] == 0:
            return None
        width = 9 - start[at].bit_length()
        value = int.from_bytes(start[at : at + width], "big") & ((1 << 7 * width) - 1)
        return at + width, -1 if value == (1 << 7 * width) - 1 else value

    header = number(4)
    if header is None or header[1] < 0:
        return None
    at = header[0] + header[1]
    if start[at : at + 4] != b"\x18\x53\x80\x67":
        return None
    segment = number(at + 4)
    return None if segment is None or segment[1] < 0 else segment[0] + segment[1]


class NotDecoded(Exception):
    """A decoder does not read this file; another one may."""


@contextmanager
def tried(decoder: str) -> Generator[None]:
    """Whatever a decoder raises inside the block comes out as `NotDecoded`."""
    try:
        yield
    except (MediaError, ImportError):
        raise
    except Exception as error:
        raise NotDecoded(f"{decoder}: {type(error).__name__}: {error}") from error


def first_decoded(decoders: Iterable[Callable[[], _Decoded]], name: str, kind: str) -> _Decoded:
    """What the first decoder gives that is installed and reads the file. Raises `MediaError` where none reads it, or
    one that does finds it wrong; `ImportError` where none is installed."""
    failed, missing = [], []
    for decode in decoders:
        try:
            return decode()
        except ImportError as error:
            missing.append(str(error))
        except NotDecoded as error:
            failed.append(str(error))
    if not failed:
        raise ImportError(" ".join(missing))
    reasons = "; ".join(failed + missing)
    raise MediaError(f"{name} cannot be decoded as {kind}; it may be corrupt or truncated ({reasons}).")


def torchcodec_decoder(kind: str, source: Path | BytesIO, **options: Any) -> Any:
    if not is_torchcodec_usable(kind):
        raise ImportError("torchcodec is missing or does not find FFmpeg.")
    from torchcodec.decoders import AudioDecoder, VideoDecoder

    with tried("torchcodec"):
        decoder = {"audio": AudioDecoder, "video": VideoDecoder}[kind]
        return decoder(source if isinstance(source, Path) else source.getvalue(), **options)


def av_container(source: Path | BytesIO) -> Any:
    if isinstance(source, BytesIO):
        source.seek(0)
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    return require("av").open(str(source) if isinstance(source, Path) else source, options=options)
