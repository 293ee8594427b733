"""Readers that turn what a user gives into plain arrays and images.

Decoders are imported when first needed: importing this package costs numpy only.
"""

from ._frames import frame_times
from ._source import DEFAULT_LIMITS, Limits, MediaError, open_source
from .audio import read_audio, read_waveform
from .image import read_image, read_map
from .signal import read_signal
from .video import read_video, read_video_frames


__all__ = [
    "DEFAULT_LIMITS",
    "Limits",
    "MediaError",
    "frame_times",
    "open_source",
    "read_audio",
    "read_image",
    "read_map",
    "read_signal",
    "read_video",
    "read_video_frames",
    "read_waveform",
]
