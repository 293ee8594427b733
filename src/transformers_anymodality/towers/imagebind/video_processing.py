"""Videos in ImageBind's form: clips spread over the duration, each seen through three squares side by side."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoVideoProcessor, BatchFeature
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.utils import is_torchvision_available, is_vision_available
from transformers.video_processing_utils import VideoProcessorMixin

from ...modalities import MediaError
from .configuration import ImageBindVisionConfig
from .image_processing import NoKwargs, normalized


def clip_starts(duration: float, clip_seconds: float, num_clips: int) -> list[Fraction]:
    """Seconds at which clips begin that are spread evenly; all 0 if there is no more than one clip's duration.

    Exact fractions, as PyTorchVideo's `ConstantClipsPerVideoSampler` has them: what is rounded up later depends on it.
    """
    last = Fraction(max(duration - clip_seconds, 0))
    return [last / max(num_clips - 1, 1) * index for index in range(num_clips)]


class ImageBindVideoProcessor(VideoProcessorMixin):
    """
    Args:
        size: of the squares, in pixels.
        num_clips, clip_seconds: clips, and their duration.
        frames_per_clip: frames of a clip, spread evenly from its first to its last.
        num_crops: squares along the longer side, 3 (both ends and the middle) or 1 (the middle).
        image_mean, image_std: of each channel, values being between 0 and 1.
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
            raise ValueError(f"num_crops is {num_crops}, it can be 1 or 3.")
        self.size, self.num_crops = size, num_crops
        self.num_clips, self.clip_seconds, self.frames_per_clip = num_clips, clip_seconds, frames_per_clip
        self.image_mean, self.image_std = list(image_mean), list(image_std)

    def frame_indices(self, total: int, fps: float) -> list[int]:
        """Frames that are read of a video of `total`, clip by clip; the clips of a short video overlap.

        A clip holds the frames that come on display while it lasts, or the one that is, where none does.
        """
        chosen: list[int] = []
        for start in clip_starts(total / fps, self.clip_seconds, self.num_clips):
            end = min(math.ceil(fps * (start + Fraction(self.clip_seconds))), total)
            first = min(math.ceil(fps * start), total - 1)
            places = torch.linspace(0, max(end - 1 - first, 0), self.frames_per_clip).long()
            chosen += (first + places).tolist()
        return chosen

    def __call__(self, videos: Any, return_tensors: str | None = "pt", **kwargs) -> BatchFeature:
        """
        Args:
            videos: a list of uint8 `(num_clips * frames_per_clip, height, width, 3)`, the frames of `frame_indices`.

        Returns:
            float32 `pixel_values (items, num_clips * num_crops, 3, frames_per_clip, size, size)`.
        """
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
        pixels = normalized(pixels, self.image_mean, self.image_std)
        squares = torch.stack(
            [pixels[..., y : y + self.size, x : x + self.size] for y, x in self._corners(*sides)]
        )  # (crops, 3, frames, size, size)
        clips = squares.unflatten(2, (self.num_clips, self.frames_per_clip))
        return clips.permute(2, 0, 1, 3, 4, 5).flatten(0, 1)

    def _corners(self, height: int, width: int) -> list[tuple[int, int]]:
        """Upper left corners of the squares, from one end of the longer side to the other."""
        y, x = math.ceil((height - self.size) / 2), math.ceil((width - self.size) / 2)
        if self.num_crops == 1:
            return [(y, x)]
        if height > width:
            return [(0, x), (y, x), (height - self.size, x)]
        return [(y, 0), (y, x), (y, width - self.size)]


if is_vision_available() and is_torchvision_available():
    AutoVideoProcessor.register(ImageBindVisionConfig, ImageBindVideoProcessor, exist_ok=True)
