"""X-LLM's media: speech as precomputed features, one row per spoken token; and frames of a video."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad
from transformers import (
    AutoFeatureExtractor,
    AutoVideoProcessor,
    BatchFeature,
    PreTrainedConfig,
    VideoLlavaVideoProcessor,
)
from transformers.feature_extraction_utils import FeatureExtractionMixin

from ...modalities import DEFAULT_LIMITS, MediaError, ModalitySpec, open_source, register_modality
from ...modalities._arrays import first_bad, load_npy, to_numpy
from ...modalities._source import describe, is_array
from .._base import register_processor


class TokenFeatureExtractor(FeatureExtractionMixin):
    """Pads features to `max_rows` rows, with zeros."""

    model_input_names = ["input_values"]

    def __init__(self, feature_size: int = 512, max_rows: int = 20, **kwargs):
        super().__init__(**kwargs)
        self.feature_size = feature_size
        self.max_rows = max_rows

    def __call__(self, features: list[np.ndarray], return_tensors: str | None = "pt", **kwargs) -> BatchFeature:
        """`features`: arrays `(rows, feature_size)`. Returns float32 `input_values (items, max_rows, feature_size)`."""
        batch = np.zeros((len(features), self.max_rows, self.feature_size), dtype=np.float32)
        for item, rows in zip(batch, features, strict=True):
            self.check(rows, f"array of shape {rows.shape}")
            item[: len(rows)] = rows
        return BatchFeature({"input_values": batch}, tensor_type=return_tensors)

    def check(self, rows: np.ndarray, name: str) -> None:
        """Raises MediaError for an array that is not an item."""
        if rows.ndim != 2 or rows.shape[1] != self.feature_size:
            raise MediaError(
                f"{name} has shape {rows.shape}, expected (rows, {self.feature_size}), one row per spoken token. Audio "
                'itself is read by a speech encoder: compose with one as the tower of "audio".'
            )
        if len(rows) > self.max_rows:
            raise MediaError(
                f"{name} has {len(rows)} rows, but the model reads {self.max_rows} spoken tokens at most and the rest "
                "would be lost. Cut the speech into pieces and give each as a medium of its own."
            )
        if (bad := first_bad(rows)) is not None:
            raise MediaError(f"{name} holds {rows[bad]} at row {bad[0]}, column {bad[1]}: expected finite numbers.")


@dataclass(frozen=True, kw_only=True)
class TokenFeatureSpec(ModalitySpec):
    """Speech as the features of a speech encoder with one row per spoken token: `.npy`, or an array `(rows, width)`."""

    medium = "signal"
    processor_kind = "feature_extractor"
    suffixes = (".npy",)

    def default_processor(self, tower_config: PreTrainedConfig, options: dict[str, Any]) -> TokenFeatureExtractor:
        return TokenFeatureExtractor(tower_config.hidden_size, getattr(tower_config, "context_length", 20))

    def read(self, source: Any, processor: Any, options: dict[str, Any], **access) -> np.ndarray:
        """`(rows, feature_size)` float32."""
        name = describe(source)
        if is_array(source):
            rows = to_numpy(source, name)
        else:
            rows = load_npy(open_source(source, **access), name, access.get("limits", DEFAULT_LIMITS))
        processor.check(rows, name)
        return rows.astype(np.float32)

    def dummy(self, processor: Any, options: dict[str, Any], size: int = 0) -> np.ndarray:
        rows, width = getattr(processor, "max_rows", 20), getattr(processor, "feature_size", 512)
        return np.sin(np.arange(max(1, rows // (2 - size)))[:, None] / 5 + np.arange(width)).astype(np.float32)


register_modality(TokenFeatureSpec(name="speech"), exist_ok=True)
register_processor(AutoFeatureExtractor, "x_llm_speech", TokenFeatureExtractor)


class XLlmVideoProcessor(VideoLlavaVideoProcessor):
    """One frame of each second from the first on, `num_frames` in all, each like an image of CLIP's, as Video-LLaVA's.

    A video of fewer seconds gives frames that are spread over it. With `fill_with_zeros`, it gives those of its seconds,
    and zeros behind them, as the original does.
    """

    num_frames = 5
    max_seconds = 60
    fill_with_zeros = False

    def frame_indices(self, total: int, fps: float) -> list[int]:
        seconds = range(min(self.max_seconds, self.num_frames))
        numbers = [number for number in (int(second * fps) for second in seconds) if number < total]
        if len(numbers) == self.num_frames or self.fill_with_zeros:
            return numbers
        return [(2 * place + 1) * total // (2 * self.num_frames) for place in range(self.num_frames)]

    def _preprocess(self, videos: list[torch.Tensor], return_tensors: str | None = None, **kwargs) -> BatchFeature:
        frames = super()._preprocess(videos, return_tensors=None, **kwargs)["pixel_values_videos"]
        if self.fill_with_zeros:
            frames = [pad(video, (0, 0) * 3 + (0, max(0, self.num_frames - len(video)))) for video in frames]
        return BatchFeature({"pixel_values_videos": frames}, tensor_type=return_tensors)


register_processor(AutoVideoProcessor, "x_llm_video", XLlmVideoProcessor)
