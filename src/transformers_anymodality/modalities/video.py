"""Videos: a fixed number of frames spread evenly over time, or frames chosen by number."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from transformers.image_utils import is_valid_image

from ..utils.tensors import are_grids
from ._arrays import positive, to_numpy
from ._base import ModalitySpec
from ._limits import PIXELS, with_pixels
from ._recordings import check_recording
from ._source import DEFAULT_LIMITS, Limits, MediaError, describe, head, is_array, open_source
from ._video_files import Choice, Numbered, Paced, Spread, Timeline, check_output, from_decoder, from_file, taken
from .image import SLOWER, open_image, pixels_to_uint8, read_image, to_rgb


if TYPE_CHECKING:
    from PIL import Image

_ZERO_DELAY = 0.1  # seconds; browsers show a frame so long if the animation gives no duration
# Frames per second of a video without a rate, as in Transformers.
DEFAULT_FPS = 24.0


class Clip(NamedTuple):
    """Frames `(frames, height, width, 3)`, and the start of each one's display, in seconds."""

    frames: np.ndarray
    seconds: Any


@dataclass(frozen=True, kw_only=True)
class VideoSpec(ModalitySpec):
    """An image tower reads it frame by frame (`frames` in the model's table), a video tower at once. `num_frames` frames are
    spread evenly over the duration, unless the video processor has a method `frame_indices(total, fps)` that returns the
    numbers of frames to read. With the option `fps`, so many frames per second are read instead, spread evenly, and at most
    `max_frames`; with `timestamps`, the text has the time of each frame before it."""

    num_frames: int = 8
    max_frames: int = 64

    medium = "pixels"
    processor_kind = "video_processor"
    suffixes = (".mp4", ".webm", ".mov", ".mkv", ".avi", ".gif")

    @property
    def options(self) -> dict[str, Any]:
        paced = {"fps": None, "max_frames": self.max_frames, "timestamps": False}
        return {"num_frames": self.num_frames, **paced, **PIXELS}

    def adapted(self, processor: Any, options: dict[str, Any]) -> Any:
        fps, most = options["fps"], options["max_frames"]
        if fps is None and options["timestamps"]:
            raise ValueError("`timestamps` need frames that are read at a fixed rate: set `fps`.")
        if fps is not None and not (isinstance(fps, Real) and not isinstance(fps, bool) and 0 < fps < float("inf")):
            raise ValueError(f"fps is {fps!r}; it must be a positive number of frames per second.")
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            raise ValueError(f"max_frames is {most!r}; it must be an integer of at least 1.")
        return with_pixels(processor, options)

    def most_frames(self, options: dict[str, Any]) -> int | None:
        return None if options.get("fps") is None else options["max_frames"]

    def frames(self, item: Any, processor: Any, options: dict[str, Any]) -> list[np.ndarray]:
        frames = item.frames if isinstance(item, Clip) else item
        return np.split(frames, len(frames))

    def texts(self, item: Any, options: dict[str, Any]) -> list[str] | None:
        return [f"<{time:.1f} seconds>" for time in item.seconds] if isinstance(item, Clip) else None

    def is_item(self, value: Any) -> bool:
        """A list of frames is one video."""
        if isinstance(value, (list, tuple)):
            return bool(value) and all(is_valid_image(frame) and np.ndim(frame) != 4 for frame in value)
        return True

    def read(self, source: Any, processor: Any, options: dict[str, Any], **access) -> "np.ndarray | Clip":
        if self.most_frames(options) is not None:
            choice = Paced(options["fps"], options["max_frames"])
            frames = _read(
                source, choice, DEFAULT_FPS, access.get("allow_urls", False), access.get("limits", DEFAULT_LIMITS)
            )
            return Clip(frames, choice.seconds) if options["timestamps"] else frames
        if hasattr(processor, "frame_indices"):
            return read_video_frames(source, processor.frame_indices, **access)
        return read_video(source, options["num_frames"], **access)

    def extract(self, items: list[Any], processor: Any, options: dict[str, Any], **kwargs) -> Mapping[str, Any]:
        """`pixel_values (items, frames, channels, height, width)` float32."""
        if "video" in type(processor).__name__.lower():
            least = (
                getattr(processor, "temporal_patch_size", None) or 1
            )  # frames per patch: the last frame is repeated
            items = [np.concatenate([item, *[item[-1:]] * (least - len(item))]) for item in items]
            return processor(videos=items, return_tensors="pt", do_sample_frames=False, **kwargs)
        if len({item.shape for item in items}) > 1 and "size" not in (getattr(processor, "__dict__", None) or {}):
            raise MediaError("Videos of several sizes need an image processor that resizes to one size.")
        outputs = processor(images=[frame for item in items for frame in item], return_tensors="pt", **kwargs)
        arrays = {name: value for name, value in outputs.items() if is_array(value)}
        if any(are_grids(value, next(iter(arrays.values()))) for value in arrays.values()):
            return arrays  # the patches of all frames as one row
        return {name: value.reshape(len(items), -1, *value.shape[1:]) for name, value in arrays.items()}

    def dummy(self, processor: Any, options: dict[str, Any], size: int = 0) -> Any:
        frames, side = options["num_frames"], 48 + 16 * size
        time, row, column = np.mgrid[0:frames, 0:side, 0 : side + 16 + 48 * size]
        video = np.stack([row + time, column + time, row + column], axis=-1).astype(np.uint8)
        return {"frames": video, "fps": fps} if (fps := options.get("fps")) else video


def read_video(
    source: Any, num_frames: int, *, allow_urls: bool = False, limits: Limits = DEFAULT_LIMITS
) -> np.ndarray:
    """Reads `num_frames` frames of a video, spread evenly over its duration.

    The frame on display at each of `frame_times` is read. So a video of uneven frame rate is sampled evenly in time, every
    backend gives the same frames, and a video of fewer frames repeats some.

    Args:
        source: any source of `open_source` with a video (decoded by PyAV) or an animated GIF, WebP or PNG (by Pillow); an
            array or tensor of shape (T, H, W, 3) or (T, 3, H, W), uint8, or float in [0, 1]; a list of frames of one size,
            each a source of `read_image`; `{"frames": ..., "fps": ...}` with either of them; or a torchcodec
            `VideoDecoder`.
        allow_urls, limits: as in `open_source`; also for single frames in a list.

    Returns:
        uint8, shape (num_frames, H, W, 3), RGB, upright.

    Raises:
        MediaError: unreadable, truncated, beyond the limits, or an array of another shape, type or range.
        ImportError: PyAV is missing and the source is a file.
    """
    return _read(source, Spread(num_frames), DEFAULT_FPS, allow_urls, limits)


def read_video_frames(
    source: Any,
    choose: Callable[[int, float], Sequence[int]],
    *,
    fps: float = DEFAULT_FPS,
    allow_urls: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> np.ndarray:
    """Reads frames of a video by their numbers.

    Args:
        source, allow_urls, limits: as in `read_video`. Files are decoded once, up to the last chosen frame.
        choose: gets the number of frames and the frames per second; returns the numbers (from 0) of frames to read, in any
            order, also repeated.
        fps: frames per second of arrays and lists without a rate (`{"frames": ..., "fps": ...}` has one).

    Returns:
        uint8, shape (numbers, H, W, 3), RGB, upright.

    Raises:
        MediaError, ImportError: as `read_video`; also for numbers that the video does not have.
    """
    return _read(source, Numbered(choose), fps, allow_urls, limits)


def _read(source: Any, choice: Choice, fps: float, allow_urls: bool, limits: Limits) -> np.ndarray:
    name = describe(source)
    key = next((key for key in ("frames", "array") if isinstance(source, Mapping) and key in source), None)
    if key is not None:
        if source.get("fps") is not None:
            fps = positive(source["fps"], f'"fps" of {name}', " of frames per second")
        source = source[key]
    if is_array(source):
        return _from_array(source, choice, fps, name, limits)
    if isinstance(source, (list, tuple)):
        return _from_list(source, choice, fps, allow_urls, limits)
    if hasattr(source, "get_frames_at"):
        return from_decoder(source, choice, name, limits)
    resolved = open_source(source, allow_urls=allow_urls, limits=limits)
    start = head(resolved, 16)
    if start[:4] in (b"GIF8", b"\x89PNG") or (start[:4] == b"RIFF" and start[8:12] == b"WEBP"):
        return _from_animation(resolved, choice, name, limits)
    if start[:3] == b"\xff\xd8\xff":
        raise MediaError(f"{name} is a still image (JPEG), expected a video: read it with read_image, or give a list.")
    check_recording(resolved, name)
    return from_file(resolved, choice, name, limits)


def _from_array(source: Any, choice: Choice, fps: float, name: str, limits: Limits) -> np.ndarray:
    shape = tuple(source.shape)
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise MediaError(f"{name}: expected frames as (T, H, W, 3) or (T, 3, H, W).")
    if shape[1] == shape[3] == 3:
        raise MediaError(f"{name}: both axis 1 and axis 3 could be the channels. Give a list of PIL images.")
    if 0 in shape:
        raise MediaError(f"{name} is empty: expected at least one frame.")
    limits.check_frames(shape[0], name)

    def read(kept: np.ndarray) -> np.ndarray:
        frames = pixels_to_uint8(to_numpy(source[kept.tolist()], name), name)
        return np.ascontiguousarray(np.moveaxis(frames, 1, 3) if shape[1] == 3 else frames)

    return taken(choice, Timeline.steady(shape[0], fps), read, name, limits)


def _from_list(frames: list | tuple, choice: Choice, fps: float, allow_urls: bool, limits: Limits) -> np.ndarray:
    name = f"list of {len(frames)} frames"
    if not frames:
        raise MediaError(f"{name}: expected at least one frame.")
    limits.check_frames(len(frames), name)

    def read(index: int) -> "Image.Image":
        try:
            return read_image(frames[index], allow_urls=allow_urls, limits=limits)
        except MediaError as error:
            raise MediaError(f"Frame {index} of a {name}: {error}") from error

    return taken(choice, Timeline.steady(len(frames), fps), partial(_stack, read, name, limits), name, limits)


def _from_animation(source: Path | BytesIO, choice: Choice, name: str, limits: Limits) -> np.ndarray:
    with open_image(source, name, limits) as image:
        count = int(getattr(image, "n_frames", 1))
        limits.check_frames(count, name)
        limits.check_area(count, image.width, image.height, name, SLOWER)
        check_output(1, image.width, image.height, name, limits)
        bounds = [0.0]
        for index in range(count):
            image.seek(index)
            image.load()  # WebP gives a frame's duration only with its pixels
            delay = float(image.info.get("duration", 0) or 0) / 1000.0
            bounds.append(bounds[-1] + (delay if delay > 0 else _ZERO_DELAY))
            limits.check_seconds(bounds[-1], name)

        def read(index: int) -> "Image.Image":
            image.seek(index)
            return to_rgb(image, name)

        timeline = Timeline(np.asarray(bounds[:-1]), bounds[-1], count / bounds[-1])
        return taken(choice, timeline, partial(_stack, read, name, limits), name, limits)


def _stack(read: "Callable[[int], Image.Image]", name: str, limits: Limits, kept: np.ndarray) -> np.ndarray:
    """The RGB frames of the given numbers, read in their order."""
    result: Any = None  # there is at least one number
    for place, number in enumerate(kept.tolist()):
        pixels = np.asarray(read(number))
        if result is None:
            check_output(len(kept), pixels.shape[1], pixels.shape[0], name, limits)
            result = np.empty((len(kept), *pixels.shape), np.uint8)
        if pixels.shape != result.shape[1:]:
            raise MediaError(
                f"{name}: frame {number} is {pixels.shape[1]} x {pixels.shape[0]} pixels, but the first chosen one is "
                f"{result.shape[2]} x {result.shape[1]}: all frames must have one size."
            )
        result[place] = pixels
    return result
