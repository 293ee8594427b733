"""AnyMAL ([2309.16058](https://arxiv.org/abs/2309.16058)) answers instructions about images, audio, videos and IMU signals.

Frozen towers read them (CLIP, CLAP, VideoMAE, IMU2CLIP). A Perceiver resampler makes 64 tokens of an image and 32 of a
video, one linear layer 32 of audio and of IMU; LLaMA-2 reads these behind the words of the instruction. Neither code nor
weights were released: `anymal` says what the paper leaves open and how it is settled here, and `chat_template` puts the
media of a message behind its words. Its data format and its benchmarks are known by their names to `anymodality data`
and `anymodality evaluate`.
"""

from .preset import MODALITY_NAMES, anymal, chat_template


__all__ = ["MODALITY_NAMES", "anymal", "chat_template"]
