"""Images of one measured quantity: depth, temperature. An image tower reads them as three equal channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..media import read_map
from ._base import ModalitySpec
from .image import extract_images


@dataclass(frozen=True, kw_only=True)
class MapSpec(ModalitySpec):
    """`value_range` (low, high), in the file's own units, becomes black to white; without it each item's own least and
    greatest values do. Image processors with `reads_raw = True` get `(height, width)` float32 in the file's units."""

    value_range: tuple[float, float] | None = None

    medium = "pixels"
    processor_kind = "image_processor"
    suffixes = (".png", ".tif", ".tiff", ".npy")

    @property
    def options(self) -> dict[str, Any]:
        return {"value_range": self.value_range}

    def read(self, source: Any, processor: Any, options: dict[str, Any], **access) -> np.ndarray:
        """`(height, width, 3)` float32 between 0 and 255, not rounded, so that 16-bit maps keep their steps; or raw."""
        values = read_map(source, **access)
        if getattr(processor, "reads_raw", False):
            if options["value_range"] is not None:
                raise ValueError(f"value_range is set, but {type(processor).__name__} scales values itself.")
            return values
        low, high = options["value_range"] or (values.min(), values.max())
        scaled = (values - low) / max(float(high) - float(low), np.finfo(np.float32).tiny)
        return np.repeat(np.clip(scaled, 0, 1)[..., None] * np.float32(255), 3, axis=-1).astype(np.float32)

    def extract(self, items: list[Any], processor: Any, options: dict[str, Any], **kwargs) -> dict[str, torch.Tensor]:
        """`pixel_values (items, 3, height, width)` float32."""
        if getattr(processor, "reads_raw", False):
            return extract_images(items, processor, **kwargs)
        return extract_images(items, processor, input_data_format="channels_last", **kwargs)

    def dummy(self, processor: Any, options: dict[str, Any], size: int = 0) -> np.ndarray:
        side = 48 + 16 * size
        row, column = np.mgrid[0:side, 0 : side + 16]
        return (row + 2.0 * column).astype(np.float32)
