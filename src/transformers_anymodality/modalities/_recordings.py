"""Encoded audio and video: checks before decoding, and the open container."""

from collections.abc import Generator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from ..utils.imports import require
from ._containers import promised_length
from ._source import MediaError, head, opened


# Demuxers that read one file. Others in FFmpeg follow references to further files and addresses (HLS, DASH, concat,
# image2): an uploaded "video" of these kinds could read any file of the machine.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,wav,w64,aiff,flac,mp3,aac,ac3,eac3,"
    "amr,caf,au,nistsphere,h264,hevc,av1,obu,ivf,m4v,gif,apng,webp,webp_pipe,dv,mxf,rm,wv,ape,tta"
)
_PLAYLISTS = (b"#extm3u", b"ffconcat", b"<?xml", b"<mpd", b"<smil", b"[playlist]", b"v=0")


def check_recording(source: Path | BytesIO, name: str) -> None:
    """Refuses text, playlists, and containers whose size fields show that the end is missing. Decoders silently play the
    rest of a truncated WAV, AIFF, AVI, MP4 or Matroska file, so the loss would not be noticed."""
    start = head(source)
    stripped = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if stripped.startswith(_PLAYLISTS) or b"<mpd" in start.split(b"\0", 1)[0].lower() or _is_text(start):
        raise MediaError(
            f"{name} is text or a playlist, not a recording: expected an encoded audio or video file. Playlists are "
            "refused, because they make a decoder open other files and addresses."
        )
    with opened(source) as file:
        length = file.seek(0, 2)
        promised = promised_length(file, start, length, name)
    # A missing pad byte at the end is common and harmless.
    if promised is not None and promised > length + 1:
        raise MediaError(
            f"{name} is truncated: it holds {length} bytes, but its headers promise {promised}. Copy it again."
        )


def _is_text(start: bytes) -> bool:
    if any(byte < 9 or 13 < byte < 32 for byte in start):
        return False
    try:
        start[:-4].decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(start) - 8 and len(start) > 8
    return True


@contextmanager
def decoding(name: str, kind: str) -> Generator[None]:
    """Turns every error of a decoder inside the block into a `MediaError`."""
    try:
        yield
    except (MediaError, ImportError):
        raise
    except Exception as error:
        if type(error) is MemoryError:  # not PyAV's subclass, which a corrupt file can cause
            raise
        raise MediaError(
            f"{name} cannot be decoded as {kind} ({type(error).__name__}: {error}): it is corrupt, truncated, or holds "
            "recordings of several kinds."
        ) from error


def av_container(source: Path | BytesIO) -> Any:
    """The source opened by PyAV, which includes FFmpeg's libraries and suppresses their logs."""
    start = head(source, 12)
    if isinstance(source, BytesIO):
        source.seek(0)
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    if start[:4] == b"riff" or start[8:] == b"WAVE":
        # Only one large packet is searched for DTS, in a tenth of the time. Even larger ones take longer to search.
        options |= {"max_size": str(1 << 14), "max_probe_packets": "1"}
    return require("av").open(
        str(source) if isinstance(source, Path) else source, options=options, metadata_errors="replace"
    )
