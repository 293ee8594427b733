"""Decoding of video files by torchcodec and by PyAV, both led by the same times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.imports import require
from ._arrays import to_numpy
from ._containers import FFMPEG_OPTIONS
from ._frames import check_duration, check_frame_count, check_output, query_times
from ._source import Limits, MediaError


class _NotDecoded(Exception):
    """A backend does not read this file; another one may."""


def from_file(source: Path | BytesIO, num_frames: int, name: str, limits: Limits) -> np.ndarray:
    """Frames (num_frames, H, W, 3), uint8, by the first backend that reads the file.

    Raises:
        MediaError: none does, or the file breaks a limit.
        ImportError: none is installed.
    """
    failures: list[str] = []
    try:
        from ..utils.upstream import is_torchcodec_usable

        if is_torchcodec_usable("video"):
            return by_torchcodec(source, num_frames, name, limits)
    except _NotDecoded as error:
        failures.append(f"torchcodec: {error}")
    try:
        return by_av(source, num_frames, name, limits)
    except ImportError as error:
        if not failures:
            raise
        failures.append(str(error))
    except _NotDecoded as error:
        failures.append(f"PyAV: {error}")
    raise MediaError(f"{name} cannot be decoded as video; it may be corrupt or truncated ({'; '.join(failures)}).")


def by_torchcodec(source: Path | BytesIO, num_frames: int, name: str, limits: Limits) -> np.ndarray:
    """Frames of a file by torchcodec; raises `MediaError` or `_NotDecoded`."""
    try:
        decoder = _torchcodec(source)
    except Exception as error:
        raise _NotDecoded(f"{type(error).__name__}: {error}") from error
    return from_decoder(decoder, num_frames, name, limits)


def _torchcodec(source: Path | BytesIO) -> Any:
    from torchcodec.decoders import VideoDecoder

    data = source if isinstance(source, Path) else source.getvalue()
    # "exact" reads the time stamps of all packets, where a header may say anything.
    return VideoDecoder(data, dimension_order="NHWC", seek_mode="exact")


def from_decoder(decoder: Any, num_frames: int, name: str, limits: Limits) -> np.ndarray:
    """Frames (num_frames, H, W, 3), uint8, of a torchcodec `VideoDecoder` with either order of dimensions."""
    try:
        information = decoder.metadata
        begin = float(information.begin_stream_seconds or 0.0)
        end = float(information.end_stream_seconds)
        check_duration(end - begin, name, limits)
        check_frame_count(int(information.num_frames or 0), name, limits)
        check_output(num_frames, int(information.width), int(information.height), name, limits)
        batch = decoder.get_frames_played_at(query_times(begin, end, num_frames).tolist())
    except MediaError:
        raise
    except Exception as error:
        raise MediaError(
            f"{name} cannot be decoded by torchcodec ({type(error).__name__}: {error}); it may be corrupt."
        ) from error
    return _channels_last(to_numpy(batch.data, name), name)


def _channels_last(frames: np.ndarray, name: str) -> np.ndarray:
    if frames.ndim == 4 and frames.shape[3] != 3 and frames.shape[1] == 3:
        frames = np.moveaxis(frames, 1, 3)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise MediaError(f"{name} gave {frames.dtype} frames of shape {frames.shape}, expected 8-bit RGB.")
    return np.ascontiguousarray(frames)


def numbered_from_file(
    source: Path | BytesIO, choose: Callable[[int, float], np.ndarray], name: str, limits: Limits
) -> np.ndarray:
    """Frames (numbers, H, W, 3), uint8, of the numbers that `choose(frames, frames per second)` gives.

    Raises:
        MediaError, ImportError: as `from_file`.
    """
    try:
        require("av")
    except ImportError:
        from ..utils.upstream import is_torchcodec_usable

        if not is_torchcodec_usable("video"):
            raise
        return numbered_from_decoder(_torchcodec(source), choose, name, limits)
    try:
        return numbered_by_av(source, choose, name, limits)
    except _NotDecoded as error:
        raise MediaError(f"{name} cannot be decoded as video; it may be corrupt or truncated ({error}).") from error


def numbered_by_av(
    source: Path | BytesIO, choose: Callable[[int, float], np.ndarray], name: str, limits: Limits
) -> np.ndarray:
    """As `numbered_from_file`, by PyAV: a frame's number is its place among the packets' time stamps."""
    av = require("av")
    try:
        with _open(av, source) as container:
            timeline = _scan(container, name, limits)
        numbers = choose(len(timeline.stamps), timeline.fps)
        kept, places = np.unique(numbers, return_inverse=True)
        stamps = np.sort(np.asarray(timeline.stamps))[kept]
        with _open(av, source) as container:
            times = np.asarray([timeline.seconds(int(stamp)) for stamp in stamps])
            frames = _decode(container, timeline, times, name, limits)
        check_output(len(numbers), frames.shape[2], frames.shape[1], name, limits)
        return frames[places]
    except (MediaError, ImportError):
        raise
    except Exception as error:
        raise _NotDecoded(f"{type(error).__name__}: {error}") from error


def numbered_from_decoder(
    decoder: Any, choose: Callable[[int, float], np.ndarray], name: str, limits: Limits
) -> np.ndarray:
    """As `numbered_from_file`, of a torchcodec `VideoDecoder` with either order of dimensions."""
    try:
        information = decoder.metadata
        count, fps = int(information.num_frames), float(information.average_fps)
        check_duration(count / fps, name, limits)
        check_frame_count(count, name, limits)
        numbers = choose(count, fps)
        check_output(len(numbers), int(information.width), int(information.height), name, limits)
        kept, places = np.unique(numbers, return_inverse=True)
        data = decoder.get_frames_at(kept.tolist()).data
    except MediaError:
        raise
    except Exception as error:
        raise MediaError(
            f"{name} cannot be decoded by torchcodec ({type(error).__name__}: {error}); it may be corrupt."
        ) from error
    return _channels_last(to_numpy(data, name), name)[places]


@dataclass
class _Timeline:
    """What the packets of a stream say, in ticks of `tick` seconds."""

    tick: float
    begin: int
    end: int
    stamps: list[int]  # of each frame, in the order of decoding
    fps: float

    def seconds(self, stamp: int) -> float:
        return stamp * self.tick


def by_av(source: Path | BytesIO, num_frames: int, name: str, limits: Limits) -> np.ndarray:
    """Frames of a file by PyAV; raises `ImportError`, `MediaError` or `_NotDecoded`.

    The packets' time stamps are read first, without decoding; frame counts and durations in headers are trusted for
    nothing but refusal.
    """
    av = require("av")
    try:
        with _open(av, source) as container:
            timeline = _scan(container, name, limits)
        times = query_times(timeline.seconds(timeline.begin), timeline.seconds(timeline.end), num_frames)
        with _open(av, source) as container:
            return _decode(container, timeline, times, name, limits)
    except (MediaError, ImportError):
        raise
    except Exception as error:
        raise _NotDecoded(f"{type(error).__name__}: {error}") from error


def _open(av: Any, source: Path | BytesIO) -> Any:
    if isinstance(source, BytesIO):
        source.seek(0)
    return av.open(str(source) if isinstance(source, Path) else source, options=dict(FFMPEG_OPTIONS))


def _scan(container: Any, name: str, limits: Limits) -> _Timeline:
    if not container.streams.video:
        raise MediaError(f"{name} has no video track ({container.format.name}): is it a sound recording?")
    stream = container.streams.video[0]
    tick = float(stream.time_base)
    check_output(1, stream.codec_context.width, stream.codec_context.height, name, limits)
    if stream.duration is not None:
        check_duration(stream.duration * tick, name, limits)
    check_frame_count(stream.frames, name, limits)
    begin = end = None
    stamps: list[int] = []
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise MediaError(f"{name} is truncated or corrupt: packet {len(stamps)} of its video is incomplete.")
        stamp = packet.dts if packet.pts is None else packet.pts
        if packet.size == 0 or packet.is_discard:
            continue
        if stamp is None:
            raise MediaError(f"{name} has frames without time stamps: remux it into mp4 or Matroska.")
        stamps.append(stamp)
        check_frame_count(len(stamps), name, limits)
        begin = stamp if begin is None else min(begin, stamp)
        end = max(stamp + (packet.duration or 0), begin if end is None else end)
        check_duration((end - begin) * tick, name, limits)
    if begin is None or end is None:
        raise MediaError(f"{name} holds no video frames ({container.format.name}): it may be truncated.")
    seconds = max((end - begin) * tick, tick)
    return _Timeline(tick, begin, end, stamps, float(stream.average_rate or len(stamps) / seconds))


def _decode(container: Any, timeline: _Timeline, times: np.ndarray, name: str, limits: Limits) -> np.ndarray:
    """Keep, while frames stream by, the one on display at each time; only two frames are held besides the result."""
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    result: np.ndarray | None = None
    done, previous = 0, None

    def keep(frame: Any, until: float) -> None:
        nonlocal result, done
        pixels = None
        while done < len(times) and times[done] < until:
            pixels = _to_rgb(frame, result) if pixels is None else pixels
            if result is None:
                check_output(len(times), pixels.shape[1], pixels.shape[0], name, limits)
                result = np.empty((len(times), *pixels.shape), np.uint8)
            result[done] = pixels
            done += 1

    for count, frame in enumerate(container.decode(stream), start=1):
        check_frame_count(count, name, limits)
        check_output(1, frame.width, frame.height, name, limits)
        stamp = frame.dts if frame.pts is None else frame.pts
        if stamp is None:
            raise MediaError(f"{name} has frames without time stamps: remux it into mp4 or Matroska.")
        # Before the first frame that decodes there is none to show but that one.
        keep(frame if previous is None else previous, timeline.seconds(stamp))
        previous = frame
        if done == len(times):
            break
    if previous is not None:
        keep(previous, float("inf"))
    if result is None:
        raise MediaError(f"{name} holds no frame that can be decoded: it may be corrupt.")
    return result


def _to_rgb(frame: Any, like: np.ndarray | None) -> np.ndarray:
    """Upright uint8 pixels (H, W, 3), of the size of the earlier ones should the video change its size midway."""
    turns = round((frame.rotation or 0) / 90) % 4
    size = {}
    if like is not None:
        height, width = like.shape[1:3] if turns % 2 == 0 else like.shape[2:0:-1]
        size = {"width": width, "height": height}
    pixels = frame.reformat(format="rgb24", **size).to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, turns))
