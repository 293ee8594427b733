"""timm towers: their preprocessing as a stock image processor.

`TimmWrapperImageProcessor` cannot be saved as part of a processor (it lives in the model's own config.json) and rounds
every image to 8 bits. Transformers' own processor, with the same resize, crop and normalisation, has neither limit.
"""

import math
from typing import Any

from transformers import BitImageProcessor


_RESAMPLING = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}


def stock_image_processor(processor: Any) -> Any:
    """A `BitImageProcessor` for a timm image processor or a timm tower; anything else is returned unchanged."""
    if hasattr(processor, "timm_model"):
        from timm.data import resolve_data_config

        data = resolve_data_config({}, pretrained_cfg=processor.timm_model.pretrained_cfg, model=processor.timm_model)
    elif type(processor).__name__ == "TimmWrapperImageProcessor":
        data = processor.data_config
    else:
        return processor
    _, height, width = data["input_size"]
    squash = data.get("crop_mode") == "squash"
    resized = math.floor(min(height, width) / data.get("crop_pct", 1.0))
    return BitImageProcessor(
        size={"height": height, "width": width} if squash else {"shortest_edge": resized},
        resample=_RESAMPLING.get(data.get("interpolation"), 3),
        do_center_crop=not squash,
        crop_size={"height": height, "width": width},
        image_mean=list(data["mean"]),
        image_std=list(data["std"]),
        do_convert_rgb=False,
    )
