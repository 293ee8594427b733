"""Encoded sound and video: what is checked before any decoder sees them, and the decoders that are tried."""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from ..utils.imports import require
from ..utils.upstream import is_torchcodec_usable
from ._containers import promised_length
from ._source import MediaError, head, opened


# Demuxers that read one file. FFmpeg knows others that follow references to further files and addresses (HLS, DASH,
# concat, image2): an uploaded "video" of these kinds could read any file of the machine.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,wav,w64,aiff,flac,mp3,aac,ac3,eac3,"
    "amr,caf,au,h264,hevc,av1,obu,ivf,m4v,gif,apng,webp,webp_pipe,dv,mxf,rm,wv,ape,tta"
)
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
        promised = promised_length(file, start, length, name)
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
