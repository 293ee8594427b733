"""The modalities, and how their media are read. Built in: image, video, audio, imu, depth, thermal.

Decoders are imported when first needed.
"""

from ._base import MODALITIES, ModalitySpec, UnknownModalityError, register_modality
from ._columns import Channel, three_axes
from ._source import DEFAULT_LIMITS, UPLOAD_LIMITS, Limits, MediaError, open_source
from ._video_files import frame_times
from .audio import AudioSpec, read_audio, read_waveform
from .image import ImageSpec, pages, read_image
from .map import MapSpec, read_map
from .signal import SignalFeatureExtractor, SignalSpec, read_signal
from .text import TextSpec
from .video import VideoSpec, read_video, read_video_frames


# Names used by loggers and ROS. Accelerations without gravity (user, linear) do not count.
_ACCELEROMETER = r"(?:accelerometer[ _])?acceleration|linear_acceleration|acc|accel|accelerometer|a"
_GYROSCOPE = r"angular[ _](?:velocity|rate)|(?:gyro[ _])?rotation(?:[ _]rate)?|gyr|gyro|gyroscope|omega|w|g"

# The order of registration is the order of the modalities' token type ids.
register_modality(ImageSpec(name="image", argument="images", processor_attribute="image_processor"))
register_modality(VideoSpec(name="video", argument="videos"))
register_modality(AudioSpec(name="audio", argument="audio", processor_attribute="feature_extractor"))
register_modality(
    SignalSpec(
        name="imu",
        # Accelerometer in m/s^2 with gravity, gyroscope in rad/s, both in the device's right-handed axes.
        channels=("ax", "ay", "az", "gx", "gy", "gz"),
        units=("m/s^2",) * 3 + ("rad/s",) * 3,
        aliases=tuple(three_axes(words, axis) for words in (_ACCELEROMETER, _GYROSCOPE) for axis in "xyz"),
        sampling_rate=200.0,
        seconds=5.0,
    )
)
# Depth sensors store millimetres in 16 bits (NYU, ScanNet, RealSense); depth cameras and lidars do not reach beyond 250 m.
register_modality(MapSpec(name="depth", unit="m", integer_unit="mm", plausible=(0.1, 250.0)))
# A map with a maximum beyond these limits has another unit, such as hundredths of a kelvin.
register_modality(MapSpec(name="thermal", unit="C", plausible=(-100.0, 3000.0)))

__all__ = [
    "DEFAULT_LIMITS",
    "UPLOAD_LIMITS",
    "MODALITIES",
    "AudioSpec",
    "Channel",
    "ImageSpec",
    "Limits",
    "MapSpec",
    "MediaError",
    "ModalitySpec",
    "SignalFeatureExtractor",
    "SignalSpec",
    "TextSpec",
    "UnknownModalityError",
    "VideoSpec",
    "frame_times",
    "open_source",
    "pages",
    "read_audio",
    "read_image",
    "read_map",
    "read_signal",
    "read_video",
    "read_video_frames",
    "read_waveform",
    "register_modality",
]
