"""A tiny composite whose media are of any size: an image tower of native resolution, tiles, windows of sound, and frames of a
video by the second."""

from typing import Any

import numpy as np
from transformers import AutoConfig, Qwen2VLImageProcessor

from modeling_tests import tiny
from transformers_anymodality import ImageSpec, register_modality


def vision_config() -> Any:
    """Of a tower that reads the patches of all images as one row."""
    return AutoConfig.for_model(
        "qwen2_5_vl",
        vision_config=dict(
            depth=2,
            hidden_size=32,
            num_heads=2,
            intermediate_size=48,
            out_hidden_size=24,
            patch_size=4,
            spatial_merge_size=2,
            window_size=16,
            fullatt_block_indexes=[1],
            temporal_patch_size=1,
        ),
    ).vision_config


def image_processor() -> Qwen2VLImageProcessor:
    sides = {"shortest_edge": 64, "longest_edge": 4096}
    return Qwen2VLImageProcessor(patch_size=4, merge_size=2, temporal_patch_size=1, size=sides)


def register_document() -> None:
    """A modality for images that are cut into tiles."""
    register_modality(ImageSpec(name="document"), exist_ok=True)


def modalities(aligner: Any = None) -> dict[str, Any]:
    """Settings for `compose`: each modality with another aligner, or all with the one given."""
    resampler = {**tiny.RESAMPLER, "num_tokens": 3}
    return {
        "image": {"tower": vision_config(), "processor": image_processor(), "aligner": aligner or "mlp"},
        "document": {
            "tower": tiny.vision_config(),
            "processor": tiny.image_processor(),
            "tiles": 4,
            "aligner": aligner or resampler,
        },
        "audio": {
            "tower": tiny.whisper_config(),
            "processor": tiny.feature_extractor(),
            "windows": 4,
            "aligner": aligner or {"type": "mlp", "pool": "stride", "pool_size": 4},
        },
        "video": {"tower": "document", "fps": 1, "max_frames": 5, "aligner": aligner or "linear"},
    }


def composite(aligner: Any = None) -> tuple[Any, Any]:
    return tiny.composite(settings=modalities(aligner))


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=int(16000 * seconds)).astype(np.float32) / 10


def video(seconds: float, seed: int = 0) -> dict[str, Any]:
    frames = np.random.default_rng(seed).integers(0, 255, (round(2 * seconds), 40, 44, 3), dtype=np.uint8)
    return {"frames": frames, "fps": 2.0}


# Rows of a batch: parts of what the user says. Of other sizes, numbers and kinds of media, and of text alone.
ROWS: list[list[Any]] = [
    [("image", image(16, 24)), "what is", ("image", image(40, 32)), ("audio", sound(0.3))],
    ["what is this ?"],
    [("document", image(30, 30)), "and", ("video", video(1.5)), ("audio", sound(2.7)), ("document", image(20, 70, 1))],
    [("video", video(4.5, 1)), "what", ("audio", sound(1.0, 1))],
]


def chat(row: list[Any], answer: str | None = None) -> list[dict[str, Any]]:
    parts = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": part[0], part[0]: part[1]}
        for part in row
    ]
    said = [{"role": "assistant", "content": answer}] if answer else []
    return [{"role": "user", "content": parts}, *said]
