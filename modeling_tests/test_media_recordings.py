"""Recordings as encoders, recorders and people's hands leave them: read whole and right, or refused in words that help."""

import io
import struct
import zlib

import numpy as np
import pytest

from modeling_tests.media_files import sound, tone
from transformers_anymodality.modalities import Limits, MediaError, read_audio, read_video, read_waveform


av = pytest.importorskip("av")
RATE = 16_000


def numbered(kind: str, codec: str, count: int = 40, size=(64, 48), first: int = 0, **options) -> bytes:
    """Frames at 10 a second, whose brightness in eight stripes tells their number in bits."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as file:
        stream = file.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(first, first + count):
            bits = np.repeat([number >> place & 1 for place in range(8)], size[0] // 8) * 200 + 20
            pixels = np.broadcast_to(bits[None, :, None], (size[1], size[0], 3)).astype(np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)
    return buffer.getvalue()


def numbers(frames: np.ndarray) -> list[int]:
    stripes = frames.mean(axis=(1, 3)).reshape(len(frames), 8, -1).mean(2) > 120
    return (stripes * (1 << np.arange(8))).sum(1).tolist()


VIDEOS = [("mp4", "libx264"), ("matroska", "libx264"), ("avi", "libx264"), ("avi", "mpeg4"), ("flv", "flv1")]
VIDEOS += [("flv", "libx264"), ("mpegts", "libx264"), ("webm", "libvpx"), ("mov", "libx264")]


@pytest.mark.parametrize(("kind", "codec"), VIDEOS)
def test_the_same_frames_of_every_container(kind, codec):
    """Also of those without times of display, or without the last frame's duration."""
    options = {"bf": "2"} if codec == "libx264" else {}
    data = numbered(kind, codec, **options)
    assert numbers(read_video(data, 4)) == [5, 15, 25, 35]


def test_a_video_of_two_joined_is_refused():
    for size in ((64, 48), (96, 64)):
        joined = numbered("mpegts", "libx264") + numbered("mpegts", "libx264", size=size)
        with pytest.raises(MediaError, match="several recordings"):
            read_video(joined, 4)


# --- sound ---------------------------------------------------------------------------------------------------------------

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def with_serial(data: bytes, serial: int) -> bytes:
    """An Ogg file whose pages are of the stream of that number."""
    return b"".join(checked(page[:14] + struct.pack("<I", serial) + page[18:]) for page in pages(data))


def ended(page: bytes) -> bytes:
    """A page of Ogg, marked as the last one of its stream."""
    return checked(page[:5] + bytes([page[5] | 4]) + page[6:])


def checked(page: bytes) -> bytes:
    """A page of Ogg with its checksum."""
    page = page[:22] + bytes(4) + page[26:]
    checksum = int(f"{zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF:032b}"[::-1], 2)
    return page[:22] + struct.pack("<I", checksum) + page[26:]


def pages(data: bytes) -> list[bytes]:
    """Of an Ogg file."""
    found = []
    while data:
        end = 27 + data[26] + sum(data[27 : 27 + data[26]])
        found.append(data[:end])
        data = data[end:]
    return found


@pytest.mark.parametrize("serials", [(1, 2, 3), (7, 7, 7)])
@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_chained_ogg_is_read_whole(subtype, serials, tmp_path):
    links = [
        with_serial(sound(tone(s, RATE), RATE, "OGG", subtype), n)
        for s, n in zip((1.0, 2.0, 0.3), serials, strict=True)
    ]
    alone = np.concatenate([read_audio(link, 48_000) for link in links])
    assert len(alone) == 48_000 * 3.3
    (tmp_path / "radio.ogg").write_bytes(b"".join(links))
    for source in (b"".join(links), tmp_path / "radio.ogg"):
        found = read_audio(source, 48_000)
        assert len(found) == len(alone) and np.abs(found - alone).max() < 0.02
    with pytest.raises(MediaError, match="limit of 3 s"):
        read_audio(b"".join(links), RATE, limits=Limits(max_seconds=3))
    other = with_serial(sound(tone(1.0, 48_000 if subtype == "VORBIS" else RATE), 48_000, "OGG", "VORBIS"), 9)
    with pytest.raises(MediaError, match="(several|different) (rates|kinds)"):
        read_audio(links[0] + other, RATE) if subtype == "VORBIS" else read_waveform(
            links[0] + with_serial(sound(np.stack([tone(1.0, RATE)] * 2, 1), RATE, "OGG", "OPUS"), 9), RATE
        )


@pytest.mark.parametrize("seconds", [0.02, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
@pytest.mark.parametrize(("kind", "subtype"), [("OGG", "VORBIS"), ("MP3", None), ("FLAC", None), ("CAF", "PCM_16")])
def test_no_sample_too_many_or_few(kind, subtype, rate, seconds):
    """Whatever encoders put before the first sample and behind the last."""
    rng = np.random.default_rng(round(seconds * 100))
    samples = tone(seconds, rate) + rng.normal(0, 0.01, round(seconds * rate)).astype(np.float32)
    samples[: len(samples) // 3] = 0
    found, own = read_waveform(sound(samples, rate, kind, subtype), rate)
    assert found.shape == (1, len(samples)) and own == rate
    assert np.abs(found[0] - samples).max() < 0.1


TAG = b"ID3\x04\x00\x00\x00\x00\x02\x00" + bytes(256)
ENDS = {
    "nothing": b"",
    "ID3v1": b"TAG".ljust(128, b"x"),
    "APE": b"APETAGEX" + struct.pack("<IIII", 2000, 32, 0, 0x80000000) + bytes(8),
    "lyrics": b"LYRICSBEGININD0000200000036LYRICS200" + b"TAG".ljust(128, b"x"),
    "zeros": bytes(999),
}


@pytest.mark.parametrize("end", ENDS)
def test_mp3s_that_were_joined_are_read_whole(end):
    one = sound(tone(2.0, RATE), RATE, "MP3")
    assert abs(len(read_audio(one + ENDS[end], RATE)) - 2 * RATE) <= 1152
    assert abs(len(read_audio(TAG + one + ENDS[end], RATE)) - 2 * RATE) <= 1152
    if end != "zeros":
        assert abs(len(read_audio(TAG + one + ENDS[end] + TAG + one, RATE)) - 4 * RATE) <= 3000
    with pytest.raises(MediaError, match="truncated"):
        read_audio(TAG + one[: len(one) // 2], RATE)


@pytest.mark.parametrize("tag", [b"Xing", b"Info"])
def test_mp3_that_ends_within_its_header(tag):
    data = sound(tone(1.0, RATE), RATE, "MP3")
    at = max(data[:300].find(b"Xing"), data[:300].find(b"Info"))
    for length in range(at + 4, at + 18):
        with pytest.raises(MediaError):
            read_audio(data[:at] + tag + data[at + 4 : length], RATE)


def test_links_without_samples_are_passed_over():
    links = [with_serial(sound(tone(1.0, RATE), RATE, "OGG", "VORBIS"), 7)] * 2
    empty = with_serial(sound(np.zeros(0, np.float32), RATE, "OGG", "VORBIS"), 7)
    for parts in ([links[0], empty, links[1]], [empty, *links], [*links, empty]):
        assert len(read_audio(b"".join(parts), RATE)) == 2 * RATE
    with pytest.raises(MediaError, match="only the headers of an Ogg file.*Record or copy it again"):
        read_audio(empty + empty, RATE)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_of_headers_alone_says_so(subtype):
    """As of a recorder that was stopped before it began; with the mark of an end and without."""
    whole = sound(tone(1.0, RATE), RATE, "OGG", subtype)
    first, second, *_ = pages(whole)
    for headers in (first, ended(first), first + second, first + ended(second)):
        with pytest.raises(MediaError, match="only the headers of an Ogg file.*Record or copy it again"):
            read_audio(headers, RATE)
    for link in (first + ended(second), ended(first)):
        for parts in ((link, whole), (whole, link)):
            assert len(read_audio(b"".join(with_serial(p, n) for n, p in enumerate(parts, 1)), RATE)) == RATE
    with pytest.raises(MediaError, match="is truncated: the last page of its Ogg stream is missing"):
        noise = 0.1 * np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32)
        read_audio(b"".join(pages(sound(noise, RATE, "OGG", subtype))[:-1]), RATE)


def test_mp3_of_variable_rate_without_a_header():
    rng = np.random.default_rng(0)
    samples = tone(4.0, RATE)
    samples[RATE:] += rng.normal(0, 0.2, 3 * RATE).astype(np.float32)  # frames of many sizes
    data = sound(samples, RATE, "MP3")
    assert b"Xing" in data[:300] or b"Info" in data[:300]
    size = data.index(b"\xff\xf3", 4) if data[:2] == b"\xff\xf3" else data.index(data[:2], 4)
    assert abs(len(read_audio(data[size:], RATE)) - 4 * RATE) <= 2000


def test_flac_of_unknown_length():
    data = bytearray(sound(tone(1.0, RATE), RATE, "FLAC"))
    for unknown in (bytes(4), b"\xff" * 4):
        data[21] = data[21] & 0xF0 | (unknown[0] & 0xF)
        data[22:26] = unknown
        assert len(read_audio(bytes(data), RATE)) == RATE


def test_flac_is_what_its_checksums_say():
    data = sound(tone(3.0, RATE), RATE, "FLAC")
    assert len(read_audio(data, RATE)) == 3 * RATE
    for place in range(2000, len(data), len(data) // 12):
        flipped = data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]
        with pytest.raises(MediaError, match="corrupt"):
            read_audio(flipped, RATE)


@pytest.mark.parametrize("kind", ["WAV", "WAVEX"])  # WAVEX says which loudspeakers they are
def test_channels_are_averaged_wherever_they_are(kind):
    samples = np.zeros((RATE, 6), np.float32)
    samples[:, 2], samples[:, 4] = tone(1.0, RATE), tone(1.0, RATE) / 2
    data = sound(samples, RATE, kind, "PCM_16")
    assert np.abs(read_audio(data, RATE) - samples.mean(1)).max() < 1e-3
    assert np.abs(read_waveform(data, RATE)[0] - samples.T).max() < 1e-3


def test_titles_in_other_letters_are_no_obstacle():
    data = sound(tone(0.5, RATE), RATE)
    title = b"LIST" + struct.pack("<I", 16) + b"INFOINAM" + struct.pack("<I", 4) + b"\xe4\xf6\xfc\0"
    data = data[:4] + struct.pack("<I", len(data) + len(title) - 8) + data[8:] + title
    assert len(read_audio(data, RATE)) == RATE // 2
