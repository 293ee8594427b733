"""What is known of each modality, said once. Built in: image, video, audio, imu, depth, thermal."""

from ._base import MODALITIES, ModalitySpec, UnknownModalityError, register_modality
from .audio import AudioSpec
from .image import ImageSpec
from .map import MapSpec
from .signal import SignalFeatureExtractor, SignalSpec
from .text import TextSpec
from .video import VideoSpec


# The order of registration is the order of the modalities' token type ids.
register_modality(ImageSpec(name="image", argument="images", processor_attribute="image_processor"))
register_modality(VideoSpec(name="video", argument="videos"))
register_modality(AudioSpec(name="audio", argument="audio", processor_attribute="feature_extractor"))
register_modality(
    SignalSpec(
        name="imu",
        # Accelerometer in m/s^2 with gravity, gyroscope in rad/s, both in the device's right-handed axes.
        channels=("ax", "ay", "az", "gx", "gy", "gz"),
        sampling_rate=200.0,
        seconds=5.0,
    )
)
register_modality(MapSpec(name="depth"))
register_modality(MapSpec(name="thermal"))

__all__ = [
    "MODALITIES",
    "AudioSpec",
    "ImageSpec",
    "MapSpec",
    "ModalitySpec",
    "SignalFeatureExtractor",
    "SignalSpec",
    "TextSpec",
    "UnknownModalityError",
    "VideoSpec",
    "register_modality",
]
