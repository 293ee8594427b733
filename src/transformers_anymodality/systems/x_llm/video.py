"""X-LLM's frames of a video."""

from __future__ import annotations

import torch
from transformers import AutoVideoProcessor, BatchFeature

from .._base import register_processor
from .._video import ClipFramesProcessor


class XLlmVideoProcessor(ClipFramesProcessor):
    """One frame of each second from the first on, `num_frames` in all, each like an image of CLIP's.

    A video of fewer seconds gives frames that are spread over it. With `fill_with_zeros`, it gives those of its seconds,
    and zeros behind them, as the original does.
    """

    num_frames = 5
    max_seconds = 60
    fill_with_zeros = False

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


def _filled(frames: torch.Tensor, count: int) -> torch.Tensor:
    """`(frames, ...)` -> `(count, ...)`, at least."""
    return torch.cat((frames, frames.new_zeros(max(0, count - len(frames)), *frames.shape[1:])))


register_processor(AutoVideoProcessor, "x_llm_video", XLlmVideoProcessor)
