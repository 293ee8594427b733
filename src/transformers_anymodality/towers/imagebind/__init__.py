"""ImageBind's towers (images and videos, text, audio, depth, thermal, IMU) and their preprocessing."""

from .configuration import (
    ImageBindAudioConfig,
    ImageBindConfig,
    ImageBindDepthConfig,
    ImageBindImuConfig,
    ImageBindTextConfig,
    ImageBindThermalConfig,
    ImageBindVisionConfig,
)
from .feature_extraction import ImageBindAudioFeatureExtractor
from .image_processing import (
    ImageBindDepthImageProcessor,
    ImageBindImageProcessor,
    ImageBindThermalImageProcessor,
    ImageBindVideoProcessor,
)
from .modeling import (
    ImageBindAudioModel,
    ImageBindDepthModel,
    ImageBindImuModel,
    ImageBindModel,
    ImageBindTextModel,
    ImageBindThermalModel,
    ImageBindVisionModel,
)
from .tokenization import tokenize


__all__ = [
    "ImageBindAudioConfig",
    "ImageBindAudioFeatureExtractor",
    "ImageBindAudioModel",
    "ImageBindConfig",
    "ImageBindDepthConfig",
    "ImageBindDepthImageProcessor",
    "ImageBindDepthModel",
    "ImageBindImageProcessor",
    "ImageBindImuConfig",
    "ImageBindImuModel",
    "ImageBindModel",
    "ImageBindTextConfig",
    "ImageBindTextModel",
    "ImageBindThermalConfig",
    "ImageBindThermalImageProcessor",
    "ImageBindThermalModel",
    "ImageBindVideoProcessor",
    "ImageBindVisionConfig",
    "ImageBindVisionModel",
    "tokenize",
]
