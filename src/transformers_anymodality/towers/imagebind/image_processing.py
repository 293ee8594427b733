"""Images in ImageBind's form: photographs, thermal images and depth maps, resized by Pillow and cut to a square."""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
import torch
from transformers import AutoImageProcessor, BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.utils import is_vision_available

from ...modalities import MediaError, read_image, read_map
from ...utils.imports import require
from .configuration import ImageBindDepthConfig, ImageBindThermalConfig, ImageBindVisionConfig


class NoKwargs(TypedDict, total=False):
    """What a call can be told beside the media."""


class _SquareProcessor(BaseImageProcessor):
    """Base: `open` makes a Pillow image of what is given, `finish` the tower's input of its central square."""

    model_input_names = ["pixel_values"]
    valid_kwargs = NoKwargs

    def __call__(self, images: Any, return_tensors: str | None = "pt") -> BatchFeature:
        """`images`: one, or a list. Returns float32 `pixel_values (items, channels, size, size)`."""
        images = list(images) if isinstance(images, (list, tuple)) else [images]
        values = [self.finish(_central_square(self.open(image), self.size)) for image in images]
        return BatchFeature({"pixel_values": torch.stack(values).numpy()}, tensor_type=return_tensors)

    def open(self, image: Any) -> Any:
        raise NotImplementedError

    def finish(self, pixels: np.ndarray) -> torch.Tensor:
        raise NotImplementedError


def _central_square(image: Any, size: int) -> np.ndarray:
    """The shorter side resized to `size` (bicubic), then the middle of the longer one; halves round to even."""
    short = min(image.size)
    if short != size:
        sides = tuple(size if side == short else int(size * side / short) for side in image.size)
        image = image.resize(sides, require("PIL.Image").Resampling.BICUBIC)
    left, top = (round((side - size) / 2) for side in image.size)
    return np.asarray(image.crop((left, top, left + size, top + size)))


class ImageBindImageProcessor(_SquareProcessor):
    """CLIP's transform as Torchvision has it: Transformers' own cuts a square out of an odd rest one pixel beside.

    Args:
        size: of the square, in pixels.
        image_mean, image_std: of each channel, values being between 0 and 1.
    """

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

    def finish(self, pixels: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
        return normalized(pixels, self.image_mean, self.image_std)


def normalized(pixels: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    """`(channels, ...)` less the mean of each channel, over its deviation."""
    shape = (-1, *[1] * (pixels.ndim - 1))
    return (pixels - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


class ImageBindThermalImageProcessor(_SquareProcessor):
    """Heat as shades of grey between 0 and 1, of which there are 256, as in the infrared images of LLVIP.

    Args:
        size: of the square, in pixels.
        value_range: the measured values that become 0 and 1; those of 8-bit images by default.
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

    def finish(self, pixels: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(pixels.copy())[None].float() / 255


class ImageBindDepthImageProcessor(_SquareProcessor):
    """Depth in metres as disparity, which is what the tower was trained on.

    ImageBind's code has no depth loader. This is the recipe of Omnivore (arXiv 2201.08377), whose data and constants it
    uses: depth is cut to a range and turned into disparity by the camera's geometry, disparity is cut and divided by 75,
    then normalised. Whether ImageBind kept the division is not known; its mean and deviation make sense with it only.

    Args:
        size: of the square, in pixels.
        min_depth, max_depth: metres; what is nearer or farther is taken to be there. Missing values (0) become near.
        baseline: metres between the camera's two eyes; 0.075 for Kinect, 0.095 for RealSense and Xtion.
        focal_length: pixels, of the image as it is given; the default is that of NYU-Depth's Kinect.
        max_disparity: pixels that become 1; None to leave disparity in pixels.
        image_mean, image_std: then subtracted and divided by.
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

    def disparity(self, depth: np.ndarray) -> np.ndarray:
        """Metres `(height, width)` to disparity, float32."""
        disparity = (
            self.baseline * self.focal_length / np.clip(depth.astype(np.float64), self.min_depth, self.max_depth)
        )
        if self.max_disparity is not None:
            disparity = np.minimum(disparity, self.max_disparity) / self.max_disparity
        return disparity.astype(np.float32)

    def open(self, image: Any) -> Any:
        depth = read_map(image)
        if depth.min() < 0:
            raise MediaError(f"A depth map with a depth of {depth.min():g} m: expected metres, 0 where none is known.")
        return require("PIL.Image").fromarray(self.disparity(depth))

    def finish(self, pixels: np.ndarray) -> torch.Tensor:
        return (torch.from_numpy(pixels.copy())[None] - self.image_mean) / self.image_std


for _config, _processor in (
    (ImageBindVisionConfig, ImageBindImageProcessor),
    (ImageBindThermalConfig, ImageBindThermalImageProcessor),
    (ImageBindDepthConfig, ImageBindDepthImageProcessor),
):
    if is_vision_available():
        AutoImageProcessor.register(_config, image_processor_classes={"pil": _processor}, exist_ok=True)
