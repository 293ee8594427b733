"""Macaw-LLM's frames of a video, in CLIP's form."""

from __future__ import annotations

from transformers import AutoVideoProcessor

from .._base import register_processor
from .._video import ClipFramesProcessor


# Its videos were cut into so many files beforehand, of which the model reads some.
EXTRACTED_FRAMES = 120


class MacawVideoProcessor(ClipFramesProcessor):
    """CLIP's transform of each frame; `num_frames` of the 120 frames that were extracted of each video."""

    num_frames = 6

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


register_processor(AutoVideoProcessor, "macaw_video", MacawVideoProcessor)
