"""Images and videos for ImageBind: squares of photographs, thermal images and depth maps; clips of videos."""

import math
from fractions import Fraction
from typing import Any, TypedDict

import numpy as np
import torch
from torch import nn
from transformers import AutoImageProcessor, AutoVideoProcessor, BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.utils import is_torchvision_available, is_vision_available
from transformers.video_processing_utils import VideoProcessorMixin

from ...modalities import MediaError, read_image, read_map
from ...utils.imports import require
from .configuration import ImageBindDepthConfig, ImageBindThermalConfig, ImageBindVisionConfig


class NoKwargs(TypedDict, total=False):
    """Other arguments of a call: none."""


def _torchvision() -> Any:
    return require("torchvision.transforms.functional", "image")


# --- images ----------------------------------------------------------------------------------------------------------


class _SquareProcessor(BaseImageProcessor):
    """Squares of `size` pixels by CLIP's transform in Torchvision, from the Pillow image that `open` returns.
    Transformers' own crop is one pixel off where the margin is odd."""

    model_input_names = ["pixel_values"]
    valid_kwargs = NoKwargs
    # Of values between 0 and 1; Pillow images of floats are used as they are.
    image_mean: float | list[float] = 0.0
    image_std: float | list[float] = 1.0

    def __call__(self, images: Any, return_tensors: str | None = "pt") -> BatchFeature:
        """`images`: one, or a list. Returns float32 `pixel_values (items, channels, size, size)`."""
        images = list(images) if isinstance(images, (list, tuple)) else [images]
        values = torch.stack([self.square(self.open(image)) for image in images])
        return BatchFeature({"pixel_values": values.numpy()}, tensor_type=return_tensors)

    def open(self, image: Any) -> Any:
        raise NotImplementedError

    def square(self, image: Any) -> torch.Tensor:
        """`(channels, size, size)`: the shorter side resized to `size`, the longer one cut to its middle."""
        transforms = _torchvision()
        resized = transforms.resize(image, self.size, transforms.InterpolationMode.BICUBIC)
        values = transforms.to_tensor(transforms.center_crop(resized, self.size))
        return transforms.normalize(values, self.image_mean, self.image_std)


class ImageBindImageProcessor(_SquareProcessor):
    """Squares of `size` pixels; `image_mean` and `image_std` are per channel, for values between 0 and 1."""

    def __init__(
        self,
        size: int = 224,
        image_mean: list[float] | tuple[float, ...] = OPENAI_CLIP_MEAN,
        image_std: list[float] | tuple[float, ...] = OPENAI_CLIP_STD,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.size, self.image_mean, self.image_std = size, list(image_mean), list(image_std)

    def open(self, image: Any) -> Any:
        return read_image(image)


class ImageBindThermalImageProcessor(_SquareProcessor):
    """Temperature as 256 shades of grey between 0 and 1, as in the infrared images of LLVIP.

    Args:
        value_range: the measured values that become 0 and 1; the default is for 8-bit images.
    """

    reads_raw = True

    def __init__(self, size: int = 224, value_range: list[float] | tuple[float, float] = (0.0, 255.0), **kwargs):
        super().__init__(**kwargs)
        self.size, self.value_range = size, list(value_range)

    def open(self, image: Any) -> Any:
        values, (low, high) = read_map(image), self.value_range
        if values.min() < low or values.max() > high:
            raise MediaError(
                f"A thermal image with values from {values.min():g} to {values.max():g}, outside of value_range {low:g} to "
                f"{high:g}: give {type(self).__name__} the range that your camera measures."
            )
        grey = np.rint((values.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)
        return require("PIL.Image").fromarray(grey)


class ImageBindDepthImageProcessor(_SquareProcessor):
    """Depth in metres as disparity, on which the tower was trained.

    ImageBind's code has no depth loader. This is the recipe of Omnivore (arXiv 2201.08377), whose data and constants it
    uses: depth is cut to a range and turned into disparity by the camera's geometry, disparity is cut and divided by 75,
    then normalised. Whether ImageBind kept the division is not known; without it, its mean and deviation would not fit.

    Args:
        min_depth, max_depth: metres; values outside are clipped to them. Missing values (0) become `min_depth`.
        baseline: metres between the camera's two lenses; 0.075 for Kinect, 0.095 for RealSense and Xtion.
        focal_length: pixels, of the image as it is given; the default is that of NYU-Depth's Kinect.
        max_disparity: pixels that become 1; None leaves disparity in pixels.
        image_mean, image_std: for the final normalisation.
    """

    reads_raw = True
    max_disparity = 75.0  # on the class, so that None is saved too

    def __init__(
        self,
        size: int = 224,
        min_depth: float = 0.01,
        max_depth: float = 50.0,
        baseline: float = 0.075,
        focal_length: float = 518.857901,
        max_disparity: float | None = 75.0,
        image_mean: float = 0.0418,
        image_std: float = 0.0295,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.size = size
        self.min_depth, self.max_depth = min_depth, max_depth
        self.baseline, self.focal_length, self.max_disparity = baseline, focal_length, max_disparity
        self.image_mean, self.image_std = image_mean, image_std

    def open(self, image: Any) -> Any:
        depth = read_map(image).astype(np.float64)
        if depth.min() < 0:
            raise MediaError(f"A depth map with a depth of {depth.min():g} m: expected metres, 0 where unknown.")
        disparity = self.baseline * self.focal_length / np.clip(depth, self.min_depth, self.max_depth)
        if self.max_disparity is not None:
            disparity = np.minimum(disparity, self.max_disparity) / self.max_disparity
        return require("PIL.Image").fromarray(disparity.astype(np.float32))


# --- videos ----------------------------------------------------------------------------------------------------------


def clip_starts(duration: float, clip_seconds: float, num_clips: int) -> list[Fraction]:
    """Start times in seconds of evenly spread clips; all 0 if the video is not longer than one clip.

    Exact fractions, as in PyTorchVideo's `ConstantClipsPerVideoSampler`: they are rounded up later.
    """
    last = Fraction(max(duration - clip_seconds, 0))
    return [last / max(num_clips - 1, 1) * index for index in range(num_clips)]


class ImageBindVideoProcessor(VideoProcessorMixin):
    """
    Args:
        size: of the squares, in pixels.
        frames_per_clip: frames of a clip, spread evenly from its first to its last.
        num_crops: squares along the longer side, 3 (both ends and the middle) or 1 (the middle).
        image_mean, image_std: per channel, for values between 0 and 1.
    """

    model_input_names = ["pixel_values"]
    valid_kwargs = NoKwargs

    def __init__(
        self,
        size: int = 224,
        num_clips: int = 5,
        clip_seconds: float = 2.0,
        frames_per_clip: int = 2,
        num_crops: int = 3,
        image_mean: list[float] | tuple[float, ...] = OPENAI_CLIP_MEAN,
        image_std: list[float] | tuple[float, ...] = OPENAI_CLIP_STD,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if num_crops not in (1, 3):
            raise ValueError(f"num_crops is {num_crops}; it must be 1 or 3.")
        self.size, self.num_crops = size, num_crops
        self.num_clips, self.clip_seconds, self.frames_per_clip = num_clips, clip_seconds, frames_per_clip
        self.image_mean, self.image_std = list(image_mean), list(image_std)

    def frame_indices(self, total: int, fps: float) -> list[int]:
        """Indices of the frames to read from a video of `total` frames, clip by clip; clips of a short video overlap.

        A clip holds the frames whose display starts during the clip; if there are none, the frame that is on display.
        """
        chosen: list[int] = []
        for start in clip_starts(total / fps, self.clip_seconds, self.num_clips):
            end = min(math.ceil(fps * (start + Fraction(self.clip_seconds))), total)
            first = min(math.ceil(fps * start), total - 1)
            places = torch.linspace(0, max(end - 1 - first, 0), self.frames_per_clip).long()
            chosen += (first + places).tolist()
        return chosen

    def __call__(self, videos: Any, return_tensors: str | None = "pt", **kwargs) -> BatchFeature:
        """`videos`: a list of uint8 `(num_clips * frames_per_clip, height, width, 3)`, the frames of `frame_indices`.
        Returns float32 `pixel_values (items, num_clips * num_crops, 3, frames_per_clip, size, size)`."""
        values = torch.stack([self.views(np.asarray(video)) for video in videos])
        return BatchFeature({"pixel_values": values.numpy()}, tensor_type=return_tensors)

    def views(self, frames: np.ndarray) -> torch.Tensor:
        """The squares of all clips, `(num_clips * num_crops, 3, frames_per_clip, size, size)`."""
        expected = self.num_clips * self.frames_per_clip
        if frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) != expected or frames.dtype != np.uint8:
            raise MediaError(
                f"{type(self).__name__} takes {expected} frames as uint8 (frames, height, width, 3), not {frames.dtype} "
                f"{frames.shape}."
            )
        pixels = torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 255
        height, width = pixels.shape[-2:]
        short = min(height, width)
        sides = tuple(self.size if side == short else int(side / short * self.size) for side in (height, width))
        pixels = nn.functional.interpolate(pixels, size=sides, mode="bilinear", align_corners=False)
        pixels = _torchvision().normalize(pixels.transpose(0, 1), self.image_mean, self.image_std)
        squares = torch.stack(
            [pixels[..., y : y + self.size, x : x + self.size] for y, x in self._corners(*sides)]
        )  # (crops, frames, 3, size, size)
        clips = squares.unflatten(1, (self.num_clips, self.frames_per_clip))
        return clips.permute(1, 0, 3, 2, 4, 5).flatten(0, 1)

    def _corners(self, height: int, width: int) -> list[tuple[int, int]]:
        """Upper left corners of the squares, from one end of the longer side to the other."""
        y, x = math.ceil((height - self.size) / 2), math.ceil((width - self.size) / 2)
        if self.num_crops == 1:
            return [(y, x)]
        if height > width:
            return [(0, x), (y, x), (height - self.size, x)]
        return [(y, 0), (y, x), (y, width - self.size)]


if is_vision_available():
    for _config, _processor in (
        (ImageBindVisionConfig, ImageBindImageProcessor),
        (ImageBindThermalConfig, ImageBindThermalImageProcessor),
        (ImageBindDepthConfig, ImageBindDepthImageProcessor),
    ):
        AutoImageProcessor.register(_config, image_processor_classes={"pil": _processor}, exist_ok=True)
    if is_torchvision_available():
        AutoVideoProcessor.register(ImageBindVisionConfig, ImageBindVideoProcessor, exist_ok=True)
