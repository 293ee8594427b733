"""Macaw-LLM's frames of a video, in CLIP's form."""

from __future__ import annotations

from transformers import AutoVideoProcessor, PreTrainedConfig
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling
from transformers.video_processing_utils import BaseVideoProcessor


# Its videos were cut into so many files beforehand, of which the model reads some.
EXTRACTED_FRAMES = 120


class MacawVideoProcessor(BaseVideoProcessor):
    """CLIP's transform of each frame; `num_frames` of the 120 frames that were extracted of each video."""

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
    num_frames = 6
    model_input_names = ["pixel_values_videos"]

    def frame_indices(self, total: int, fps: float) -> list[int]:
        """Frames that are read, of `total`.

        120 frames were extracted: every `total // 120`-th, and the last one for the 120th; of these the model reads
        every 20th, and the last (for six frames). The tail of a long video is thus seen in its last frame alone. Of a
        video of fewer frames than 120, the original drew some twice, at random and in order; here they are spread
        evenly, which is what such a draw gives on average.
        """
        chosen = [place * (EXTRACTED_FRAMES // self.num_frames) for place in range(self.num_frames)]
        chosen[-1] = EXTRACTED_FRAMES - 1
        if total < EXTRACTED_FRAMES:
            return [place * total // EXTRACTED_FRAMES for place in chosen]
        return [*(place * (total // EXTRACTED_FRAMES) for place in chosen[:-1]), total - 1]


class MacawVideoConfig(PreTrainedConfig):
    """Stands for `MacawVideoProcessor` in the table of AutoVideoProcessor, whose keys are configs."""

    model_type = "macaw_video"


AutoVideoProcessor.register(MacawVideoConfig, MacawVideoProcessor, exist_ok=True)
