"""Frames of a video, each as CLIP reads images: what the video processors of several systems begin with."""

from __future__ import annotations

from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling
from transformers.video_processing_utils import BaseVideoProcessor


class ClipFramesProcessor(BaseVideoProcessor):
    """Resizes the shorter side, crops the middle and normalises. Subclasses say which frames are read
    (`frame_indices(total, fps)`), so that they choose none again."""

    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"shortest_edge": 224}
    default_to_square = False
    crop_size = {"height": 224, "width": 224}
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    do_sample_frames = False
    model_input_names = ["pixel_values_videos"]
