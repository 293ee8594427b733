"""What mPLUG-Owl makes of images and videos: squares of 224 pixels, whatever the aspect ratio was."""

from __future__ import annotations

from transformers import AutoImageProcessor, AutoVideoProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from .._base import ClipFramesProcessor, register_processor


class MplugOwlImageProcessor(CLIPImageProcessorPil):
    """CLIP's, but images are squashed to a square instead of cropped. Resized by Pillow, as in the release: Torchvision
    rounds to another of 256 levels here and there, which is why this class remembers it when it is saved."""

    size = {"height": 224, "width": 224}
    do_center_crop = False


class MplugOwlVideoProcessor(ClipFramesProcessor):
    """Squashes frames as images are, and says which are read.

    The release has frames scaled by the video decoder, for which there is no exact equal.
    """

    size = {"height": 224, "width": 224}
    do_center_crop = False
    num_frames = 4

    def frame_indices(self, total: int, fps: float) -> list[int]:
        """Frames out of `total`, evenly spread; the first is half a step from the start. Short videos repeat some."""
        step = (total - 1) / self.num_frames
        return [int(step / 2) + round(step * i) for i in range(self.num_frames)]


_NAME = "mplug_owl_processor"
register_processor(AutoImageProcessor, _NAME, image_processor_classes={"pil": MplugOwlImageProcessor})
register_processor(AutoVideoProcessor, _NAME, MplugOwlVideoProcessor)
