"""What mPLUG-Owl makes of images and videos: squares of 224 pixels, whatever the aspect ratio was."""

from __future__ import annotations

from transformers import AutoImageProcessor, AutoVideoProcessor, BaseVideoProcessor, PreTrainedConfig
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil


class MplugOwlImageProcessor(CLIPImageProcessorPil):
    """CLIP's, but images are squashed to a square instead of cropped. Resized by Pillow, as in the release: Torchvision
    rounds to another of 256 levels here and there, which is why this class remembers it when it is saved."""

    size = {"height": 224, "width": 224}
    do_center_crop = False


class MplugOwlVideoProcessor(BaseVideoProcessor):
    """Squashes frames as images are, and says which are read.

    The release has frames scaled by the video decoder, for which there is no exact equal.
    """

    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = {"height": 224, "width": 224}
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    num_frames = 4

    def frame_indices(self, total: int, fps: float) -> list[int]:
        """Frames out of `total`, evenly spread; the first is half a step from the start. Short videos repeat some."""
        step = (total - 1) / self.num_frames
        return [int(step / 2) + round(step * i) for i in range(self.num_frames)]


class MplugOwlProcessorConfig(PreTrainedConfig):
    """Stands for the classes above in the tables of the Auto classes, whose keys are configs."""

    model_type = "mplug_owl_processor"


AutoImageProcessor.register(
    MplugOwlProcessorConfig, image_processor_classes={"pil": MplugOwlImageProcessor}, exist_ok=True
)
AutoVideoProcessor.register(MplugOwlProcessorConfig, MplugOwlVideoProcessor, exist_ok=True)
