"""X-LLM's frames of a video."""

from __future__ import annotations

import torch
from transformers import AutoVideoProcessor, BatchFeature, PreTrainedConfig
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling
from transformers.video_processing_utils import BaseVideoProcessor


class XLlmVideoProcessor(BaseVideoProcessor):
    """One frame of each second from the first on, `num_frames` in all, each like an image of CLIP's.

    A video of fewer seconds gives frames that are spread over it. With `fill_with_zeros`, it gives those of its seconds,
    and zeros behind them, as the original does.
    """

    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"shortest_edge": 224}
    default_to_square = False
    crop_size = {"height": 224, "width": 224}
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    do_sample_frames = False
    num_frames = 5
    max_seconds = 60
    fill_with_zeros = False
    model_input_names = ["pixel_values_videos"]

    def frame_indices(self, total: int, fps: float) -> list[int]:
        """Frames that are read, of `total`."""
        seconds = range(min(self.max_seconds, self.num_frames))
        numbers = [number for number in (int(second * fps) for second in seconds) if number < total]
        if len(numbers) == self.num_frames or self.fill_with_zeros:
            return numbers
        return [(2 * place + 1) * total // (2 * self.num_frames) for place in range(self.num_frames)]

    def _preprocess(self, videos: list[torch.Tensor], return_tensors: str | None = None, **kwargs) -> BatchFeature:
        frames = super()._preprocess(videos, return_tensors=None, **kwargs)["pixel_values_videos"]
        if self.fill_with_zeros:
            frames = [_filled(video, self.num_frames) for video in frames]
        return BatchFeature({"pixel_values_videos": frames}, tensor_type=return_tensors)


class XLlmVideoConfig(PreTrainedConfig):
    """Stands for `XLlmVideoProcessor` in the table of AutoVideoProcessor, whose keys are configs."""

    model_type = "x_llm_video"


AutoVideoProcessor.register(XLlmVideoConfig, XLlmVideoProcessor, exist_ok=True)


def _filled(frames: torch.Tensor, count: int) -> torch.Tensor:
    """`(frames, ...)` -> `(count, ...)`, at least."""
    return torch.cat((frames, frames.new_zeros(max(0, count - len(frames)), *frames.shape[1:])))
