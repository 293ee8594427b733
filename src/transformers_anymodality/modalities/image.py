"""Stills with three colour channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..media import MediaError, read_image
from ._base import ModalitySpec, as_inputs


def extract_images(images: list[Any], processor: Any, **kwargs) -> dict[str, torch.Tensor]:
    """`pixel_values (items, channels, height, width)` float32, and what else the image processor gives."""
    try:
        return as_inputs(processor(images=images, return_tensors="pt", **kwargs))
    except (ValueError, RuntimeError) as error:
        if len(images) == 1:
            raise
        raise MediaError(
            f"{len(images)} images cannot be put into one batch: {str(error).splitlines()[0]}. If the image processor "
            "does not bring all to one size, do so yourself, or give them in batches of their own."
        ) from error


@dataclass(frozen=True, kw_only=True)
class ImageSpec(ModalitySpec):
    medium = "pixels"
    processor_kind = "image_processor"
    suffixes = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")

    def read(self, source: Any, processor: Any, options: dict[str, Any], **access) -> Any:
        return read_image(source, **access)

    def extract(self, items: list[Any], processor: Any, options: dict[str, Any], **kwargs) -> dict[str, torch.Tensor]:
        """`pixel_values (items, channels, height, width)` float32, and what else the image processor gives."""
        return extract_images(items, processor, **kwargs)

    def dummy(self, processor: Any, options: dict[str, Any], size: int = 0) -> Any:
        side = 48 + 16 * size
        row, column = np.mgrid[0:side, 0 : side + 16]
        return np.stack([row * 2, column * 2, row + column], axis=-1).astype(np.uint8)
