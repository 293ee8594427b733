"""PandaGPT ([2305.16355](https://arxiv.org/abs/2305.16355)) answers about six modalities, though it was trained on images
alone.

ImageBind's towers give one vector of each image, video, audio, depth map, thermal image or IMU signal, all in one space;
one linear layer, shared by all of them, makes a token of it, and media that stand side by side are added into one. Vicuna
with LoRA answers. Its release is converted by `anymodality convert pandagpt`, with the LoRA merged or beside.
"""

from .preset import MODALITY_NAMES, pandagpt


__all__ = ["MODALITY_NAMES", "pandagpt"]
