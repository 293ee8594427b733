"""Videos: a fixed number of frames at evenly spread times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.image_utils import is_valid_image

from ..media import read_video, read_video_frames
from ._base import ModalitySpec, as_inputs


@dataclass(frozen=True, kw_only=True)
class VideoSpec(ModalitySpec):
    """Read by an image tower frame by frame (`frames` in the model's table) or by a video tower at once.

    `num_frames` frames are spread evenly over the duration, unless the video processor says which it wants: by a method
    `frame_indices(total, fps)` that gives frame numbers.
    """

    num_frames: int = 8

    medium = "pixels"
    processor_kind = "video_processor"
    suffixes = (".mp4", ".webm", ".mov", ".mkv", ".avi", ".gif")

    @property
    def options(self) -> dict[str, Any]:
        return {"num_frames": self.num_frames}

    def is_item(self, value: Any) -> bool:
        """A list of frames is one video."""
        if isinstance(value, (list, tuple)):
            return bool(value) and all(is_valid_image(frame) and np.ndim(frame) != 4 for frame in value)
        return True

    def read(self, source: Any, processor: Any, options: dict[str, Any], **access) -> np.ndarray:
        if hasattr(processor, "frame_indices"):
            return read_video_frames(source, processor.frame_indices, **access)
        return read_video(source, options["num_frames"], **access)

    def extract(self, items: list[Any], processor: Any, options: dict[str, Any], **kwargs) -> dict[str, torch.Tensor]:
        """`pixel_values (items, frames, channels, height, width)` float32."""
        if "video" in type(processor).__name__.lower():
            return as_inputs(processor(videos=items, return_tensors="pt", do_sample_frames=False, **kwargs))
        if len({item.shape for item in items}) == 1 or "size" in (getattr(processor, "__dict__", None) or {}):
            frames = [frame for item in items for frame in item]
            inputs = as_inputs(processor(images=frames, return_tensors="pt", **kwargs))
            return {name: value.unflatten(0, (len(items), -1)) for name, value in inputs.items()}
        raise ValueError("Videos of several sizes need an image processor that resizes to one.")

    def dummy(self, processor: Any, options: dict[str, Any], size: int = 0) -> Any:
        frames, side = options["num_frames"], 48 + 16 * size
        time, row, column = np.mgrid[0:frames, 0:side, 0 : side + 16]
        return np.stack([row + time, column + time, row + column], axis=-1).astype(np.uint8)
