"""Reads the length of audio and video files from their containers' headers."""

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from ._source import MediaError, opened


_UNKNOWN_SIZE = 0x7FFF0000  # writers to a pipe put this or a larger number if they do not know the size
_MP3 = (b"\xff\xfb", b"\xff\xfa", b"\xff\xf3", b"\xff\xf2", b"\xff\xe3", b"\xff\xe2")  # the start of a frame
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def promised_length(file: BinaryIO, start: bytes, length: int, name: str) -> int | None:
    """Bytes that the file must have by its own headers, or None if they do not say.

    Args:
        start: the file's first bytes.
        length: the file's size in bytes.

    Raises:
        MediaError: a part of the file does not match its checksum.
    """
    match start[:4]:
        case b"RIFF" | b"RF64" if start[8:12] == b"WAVE":
            return _wave_length(file, start, length)
        case b"RIFF" | b"FORM" if len(start) >= 12:
            size = struct.unpack("<I" if start[:4] == b"RIFF" else ">I", start[4:8])[0]
            return size + 8 if size < _UNKNOWN_SIZE else None
        case b"riff" if len(start) >= 24:  # Sony Wave64; its sizes include the header
            return struct.unpack("<Q", start[16:24])[0]
        case b".snd" if len(start) >= 12:
            begin, size = struct.unpack(">II", start[4:12])
            return begin + size if size < _UNKNOWN_SIZE else None
        case b"caff":
            return _caf_length(file, length)
        case b"OggS":
            return _ogg_length(file, length, name)
        case _ if start[:3] == b"ID3" or start[:2] in _MP3:
            return _mp3_length(file, start)
        case b"\x1a\x45\xdf\xa3":
            return _matroska_length(start)
    return _mp4_length(file, length) if start[4:8] == b"ftyp" else None


def _wave_length(file: BinaryIO, start: bytes, length: int) -> int | None:
    """The end of the samples: data after them, and the total size, are often wrong, which does no harm."""
    position, long = 12, None
    while position + 8 <= length:
        file.seek(position)
        kind, size = struct.unpack("<4sI", file.read(8))
        if kind == b"ds64" and position + 24 <= length:
            long = struct.unpack("<QQ", file.read(16))[1]
        if kind == b"data":
            size = long if size >= _UNKNOWN_SIZE else size
            return position + 8 + size if size else None
        position += 8 + size + size % 2
    size = struct.unpack("<I", start[4:8])[0]
    return size + 8 if size < _UNKNOWN_SIZE else None


def _caf_length(file: BinaryIO, length: int) -> int | None:
    position = 8
    while position + 12 <= length:
        file.seek(position + 4)
        size = struct.unpack(">q", file.read(8))[0]
        if size < 0:  # "to the end of the file"
            return None
        position += 12 + size
    return position if position >= length else position + 12


def _ogg_length(file: BinaryIO, length: int, name: str) -> int | None:
    """The end of the last page, or a position after the file if bytes that are not a page follow it."""
    end, open_streams, is_recording = 0, set(), False
    for header, end in _ogg_pages(file, length):
        body = file.read(sum(header[27:]))
        if end > length:
            return end
        if _ogg_checksum(header[:22] + bytes(4) + header[26:] + body) != struct.unpack("<I", header[22:26])[0]:
            begin = end - len(header) - len(body)
            raise MediaError(f"{name} is corrupt: its page at byte {begin} does not match its checksum.")
        (open_streams.discard if header[5] & 4 else open_streams.add)(header[14:18])
        is_recording = is_recording or _has_data(header)
    if not is_recording:
        raise MediaError(
            f"{name} has only the headers of an Ogg file: the recording was stopped before it began, or the file was "
            "cut off. Record or copy it again."
        )
    if end + 27 <= length:
        return None  # tags, or another format
    if open_streams:
        raise MediaError(
            f"{name} is truncated: the last page of its Ogg stream is missing. Copy it again. If this is the complete "
            "recording, open it in an audio program and save it."
        )
    return end if end == length else length + 27


def _ogg_pages(file: BinaryIO, length: int) -> Iterator[tuple[bytes, int]]:
    """Each page's header, and the position of its end. The file is then at the page's body."""
    end = 0
    while end + 27 <= length:
        file.seek(end)
        header = file.read(27)
        if header[:4] != b"OggS":
            return
        header += file.read(header[26])
        end += 27 + header[26] + sum(header[27:])
        yield header, end


def _has_data(header: bytes) -> bool:
    """Whether a page has more than headers, by the time at its end: 0 for headers, -1 if no packet ends in it."""
    return struct.unpack("<q", header[6:14])[0] not in (0, -1)


def recordings(source: Path | BytesIO) -> list[Path | BytesIO]:
    """The recordings in a file, one after another: the links of a chained Ogg file that have more than headers, else the
    file itself."""
    with opened(source) as file:
        length, begin, first, begun = file.seek(0, 2), 0, 0, False
        links: dict[int, bool] = {}  # start of each link, and whether it holds more than headers
        for header, end in _ogg_pages(file, length):
            if not links or (header[5] & 2 and not begun):
                first = begin
            links[first] = links.get(first, False) or _has_data(header)
            begun, begin = bool(header[5] & 2), end
        if len(links) < 2:
            return [source]
        found = []
        for first, behind in pairwise([*links, length]):
            if links[first]:
                file.seek(first)
                found.append(BytesIO(file.read(behind - first)))
        return found


def _mp3_length(file: BinaryIO, start: bytes) -> int | None:
    """The length in a Xing or Info header, after an ID3v2 tag if there is one."""
    begin = 0
    if start[:3] == b"ID3":  # its size has 7 bits in each byte
        begin = 10 + sum(byte << 7 * place for place, byte in enumerate(reversed(start[6:10])))
    file.seek(begin)
    frame = file.read(256)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if frame[:2] not in _MP3 or at < 0 or len(frame) < at + 16 or not frame[at + 7] & 2:
        return None
    frames = 4 * (frame[at + 7] & 1)
    return begin + int.from_bytes(frame[at + 8 + frames : at + 12 + frames], "big")


def _ogg_checksum(page: bytes) -> int:
    """CRC-32 as in Ogg: the bits in reverse order of zlib's, and not inverted."""
    found = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{found:032b}"[::-1], 2)


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
            return None  # not a box, but trailing bytes
        complete = complete or kind in (b"moov", b"moof")
        position += size
    # A recording without an index was cut, or is still being written.
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
