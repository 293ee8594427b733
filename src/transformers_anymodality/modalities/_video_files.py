"""Chooses frames of a video, and decodes them with PyAV.

Only PyAV is used: it includes FFmpeg, but torchcodec needs an installed one. torchcodec counts the frames of some files
(MPEG-TS, AVI, FLV) differently, so the same video would give other frames on another machine.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ._arrays import to_numpy
from ._recordings import av_container, decoding
from ._source import Limits, MediaError


_ROUNDING = 1e-6  # seconds
_BACK = 0.5  # seconds by which the times of decoding may go back


def frame_times(begin: float, end: float, num_frames: int) -> np.ndarray:
    """Mid-points of `num_frames` equal parts of the duration [begin, end), in seconds: float64 (num_frames,), rising.

    Args:
        begin, end: seconds at which the display of the first frame begins, and that of the last frame ends.

    Raises:
        MediaError: `num_frames` is not positive, or the duration is negative or not finite.
    """
    if isinstance(num_frames, bool) or not isinstance(num_frames, (int, np.integer)) or num_frames < 1:
        raise MediaError(f"num_frames is {num_frames!r}, expected a positive integer.")
    if not (math.isfinite(begin) and math.isfinite(end) and begin <= end):
        raise MediaError(f"A video from {begin} s to {end} s has no duration: expected finite times, begin <= end.")
    return begin + (np.arange(num_frames) + 0.5) * ((end - begin) / num_frames)


@dataclass
class Timeline:
    """When the frames of a video are on display: in seconds, or in frames if all have the same duration."""

    starts: np.ndarray  # start of each frame's display, increasing; shape (frames,)
    end: float  # end of the last frame's display
    fps: float
    unit: float = 1.0  # seconds per unit of these

    @classmethod
    def steady(cls, count: int, fps: float) -> "Timeline":
        return cls(np.arange(count), count, fps, 1 / fps)


@dataclass
class Spread:
    """Frames on display at evenly spread times, `frame_times`."""

    num_frames: int

    def times(self, begin: float, end: float) -> np.ndarray:
        """One microsecond later, so that a time exactly between two frames gets the later frame. Otherwise the rounding
        of time stamps to seconds decides, and backends differ."""
        return frame_times(begin, end, self.num_frames) + min(_ROUNDING, (end - begin) / self.num_frames / 4)

    def numbers(self, timeline: Timeline, name: str) -> np.ndarray:
        times = self.times(timeline.starts[0], timeline.end)
        return np.searchsorted(timeline.starts, times, side="right") - 1


@dataclass
class Numbered:
    """Frames with the numbers that `choose(frames, frames per second)` returns."""

    choose: Callable[[int, float], Sequence[int]]

    def numbers(self, timeline: Timeline, name: str) -> np.ndarray:
        """The numbers as int64; raises `MediaError` if there are none, or if the video does not have one of them."""
        count = len(timeline.starts)
        numbers = np.asarray(self.choose(count, timeline.fps), dtype=np.int64)
        if numbers.ndim != 1 or not len(numbers) or numbers.min() < 0 or numbers.max() >= count:
            raise MediaError(f"{name} has {count} frames, but frames {numbers.tolist()} were requested.")
        return numbers


@dataclass
class Paced:
    """A fixed number of frames per second, up to `most`, at evenly spread times. `seconds`: the times of chosen frames."""

    fps: float
    most: int
    seconds: np.ndarray | None = None

    def numbers(self, timeline: Timeline, name: str) -> np.ndarray:
        duration = (timeline.end - timeline.starts[0]) * timeline.unit
        count = max(1, min(round(duration * self.fps), self.most))
        numbers = Spread(count).numbers(timeline, name)
        self.seconds = (timeline.starts[numbers] - timeline.starts[0]) * timeline.unit
        return numbers


Choice = Spread | Numbered | Paced


def check_output(num_frames: int, width: int, height: int, name: str, limits: Limits) -> None:
    """Raises `MediaError` for a frame size beyond the limits, or frames that would not fit `limits.max_bytes`."""
    limits.check_pixels(width, height, name)
    size = num_frames * width * height * 3
    limits.check(
        "max_bytes",
        size,
        lambda: f"{name}: {num_frames} frames of {width} x {height} pixels need {size} bytes",
        "ask for fewer frames, or scale the video down",
    )


def taken(
    choice: Choice, timeline: Timeline, read: Callable[[np.ndarray], np.ndarray], name: str, limits: Limits
) -> np.ndarray:
    """The chosen frames (chosen, H, W, 3), uint8. `read` gives the frames of distinct, increasing numbers."""
    numbers = choice.numbers(timeline, name)
    kept, places = np.unique(numbers, return_inverse=True)
    frames = read(kept)
    check_output(len(numbers), frames.shape[2], frames.shape[1], name, limits)
    return frames if np.array_equal(places, np.arange(len(frames))) else frames[places]


def from_decoder(decoder: Any, choice: Choice, name: str, limits: Limits) -> np.ndarray:
    """Frames (chosen, H, W, 3), uint8, of a torchcodec `VideoDecoder` with either order of dimensions."""
    with decoding(name, "video"):
        information = decoder.metadata
        count, size = int(information.num_frames or 0), (int(information.width), int(information.height))
        limits.check_frames(count, name)
        limits.check_area(count, *size, name)
        if isinstance(choice, Spread):
            begin, end = float(information.begin_stream_seconds or 0.0), float(information.end_stream_seconds)
            limits.check_seconds(end - begin, name)
            times = choice.times(begin, end)
            check_output(len(times), *size, name, limits)
            return _channels_last(decoder.get_frames_played_at(times.tolist()), name)

        def read(kept: np.ndarray) -> np.ndarray:
            check_output(len(kept), *size, name, limits)
            return _channels_last(decoder.get_frames_at(kept.tolist()), name)

        timeline = Timeline.steady(count, float(information.average_fps))
        limits.check_seconds(count / timeline.fps, name)
        return taken(choice, timeline, read, name, limits)


def _channels_last(batch: Any, name: str) -> np.ndarray:
    frames = to_numpy(batch.data, name)
    if frames.ndim == 4 and frames.shape[3] != 3 and frames.shape[1] == 3:
        frames = np.moveaxis(frames, 1, 3)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise MediaError(f"{name} gave {frames.dtype} frames of shape {frames.shape}, expected 8-bit RGB.")
    return np.ascontiguousarray(frames)


def from_file(source: Path | BytesIO, choice: Choice, name: str, limits: Limits) -> np.ndarray:
    """Frames (chosen, H, W, 3), uint8, of a file. A frame's number is its place among the packets' time stamps. These are
    read first, without decoding; counts and durations in headers are not used, because those of live streams are wrong."""
    with decoding(name, "video"):
        with av_container(source) as container:
            stamps, timeline, shown = _scan(container, name, limits)

        def read(kept: np.ndarray) -> np.ndarray:
            with av_container(source) as container:
                return _decode(container, stamps[kept], None if shown else stamps, name, limits)

        return taken(choice, timeline, read, name, limits)


def _stamp(packet: Any, name: str) -> int:
    """The time stamp of a packet or a frame, in ticks of the stream."""
    stamp = packet.dts if packet.pts is None else packet.pts
    if stamp is None:
        raise MediaError(f"{name} has frames without time stamps: remux it into mp4 or Matroska.")
    return stamp


def _scan(container: Any, name: str, limits: Limits) -> tuple[np.ndarray, Timeline, bool]:
    """The stamps of all frames, increasing; their timeline in seconds; and whether they are display times. Otherwise (AVI)
    they are decoding times, and only their order identifies frames."""
    stream = container.streams.best("video")  # not the first, which may be a cover
    if stream is None:
        raise MediaError(f"{name} has no video track ({container.format.name}): is it an audio recording?")
    tick, shown, before = float(stream.time_base), container.format.name != "avi", -math.inf
    check_output(1, stream.codec_context.width, stream.codec_context.height, name, limits)
    stamps: list[int] = []
    begin, end = math.inf, -math.inf
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise MediaError(
                f"{name} is truncated or corrupt, or several recordings were joined: packet {len(stamps)} of its video is "
                "incomplete."
            )
        if packet.size == 0 or packet.is_discard:
            continue
        stamps.append(_stamp(packet, name))
        shown, decoded = shown and packet.pts is not None, stamps[-1] if packet.dts is None else packet.dts
        if decoded < before - _BACK / tick:
            raise MediaError(
                f"{name} holds several recordings: the times of its frames start again. Split or remux it."
            )
        before = max(before, decoded)
        limits.check_frames(len(stamps), name)
        limits.check_area(len(stamps), stream.codec_context.width, stream.codec_context.height, name)
        begin, end = min(begin, stamps[-1]), max(end, stamps[-1] + (packet.duration or 0))
        limits.check_seconds((end - begin) * tick, name)
    if not stamps:
        raise MediaError(f"{name} holds no video frames ({container.format.name}): it may be truncated.")
    ordered = np.sort(np.asarray(stamps))
    if end == ordered[-1] and len(stamps) > 1:  # the duration of the last frame is unknown
        end += float(np.median(np.diff(ordered)))
    fps = float(stream.average_rate or len(stamps) / max((end - begin) * tick, tick))
    return ordered, Timeline(ordered * tick, end * tick, fps), shown


def _decode(container: Any, stamps: np.ndarray, every: np.ndarray | None, name: str, limits: Limits) -> np.ndarray:
    """Keeps the frame on display at each stamp while frames are decoded; only two frames are held besides the result.
    `every`: the stamps of all frames, if frames do not have them."""
    stream = container.streams.best("video")
    # As many threads as torch has: one in each worker of a DataLoader, where more would only disturb each other.
    stream.codec_context.thread_type, stream.codec_context.thread_count = "AUTO", torch.get_num_threads()
    result: np.ndarray | None = None
    done, previous = 0, None

    def keep(frame: Any, until: float) -> None:
        nonlocal result, done
        pixels = None
        while done < len(stamps) and stamps[done] < until:
            pixels = _to_rgb(frame, result) if pixels is None else pixels
            if result is None:
                check_output(len(stamps), pixels.shape[1], pixels.shape[0], name, limits)
                result = np.empty((len(stamps), *pixels.shape), np.uint8)
            result[done] = pixels
            done += 1

    for count, frame in enumerate(container.decode(stream), start=1):
        limits.check_frames(count, name)
        check_output(1, frame.width, frame.height, name, limits)
        # Times before the first decodable frame get this frame.
        stamp = _stamp(frame, name) if every is None else every[min(count, len(every)) - 1]
        keep(frame if previous is None else previous, stamp)
        previous = frame
        if done == len(stamps):
            break
    if previous is not None:
        keep(previous, math.inf)
    if result is None:
        raise MediaError(f"{name} holds no frame that can be decoded: it may be corrupt.")
    return result


def _to_rgb(frame: Any, like: np.ndarray | None) -> np.ndarray:
    """Upright uint8 pixels (H, W, 3); if the video changes its size, they have the size of the earlier frames."""
    turns = round((frame.rotation or 0) / 90) % 4
    size = {}
    if like is not None:
        height, width = like.shape[1:3] if turns % 2 == 0 else like.shape[2:0:-1]
        size = {"width": width, "height": height}
    pixels = frame.reformat(format="rgb24", **size).to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, turns))
