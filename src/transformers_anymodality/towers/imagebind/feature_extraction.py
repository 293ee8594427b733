"""Audio for ImageBind: Kaldi's log mel spectrograms of clips that are spread over the duration.

Resampling and filter banks are torchaudio's, with the same calls as the original (`load_and_transform_audio_data` and
`waveform2melspec` of https://github.com/facebookresearch/ImageBind, `imagebind/data.py`).
"""

from fractions import Fraction
from typing import Any

import torch
from transformers import AutoFeatureExtractor, BatchFeature
from transformers.feature_extraction_utils import FeatureExtractionMixin

from ...modalities import MODALITIES, MediaError, read_waveform
from ...utils.imports import require
from .configuration import ImageBindAudioConfig
from .image_processing import clip_starts


_WINDOW_SECONDS = 0.025  # Kaldi's; a window begins every 0.010 s


class ImageBindAudioFeatureExtractor(FeatureExtractionMixin):
    """Kaldi's log mel spectrograms of the first channel, minus the mean over all channels. They are padded with zeros, or
    cut, to `target_length` frames before they are normalised. Audio shorter than a clip is used in full as every clip.

    Args:
        sampling_rate: Hz; other rates are resampled.
        num_mel_bins, target_length: height and width of a spectrogram; a frame is 10 ms.
        mean, std: of the log energies.
        faithful: centre each clip in place in the waveform, as the original does. Overlapping clips are then centred
            twice, which changes the few frames where a clip begins or ends within another.
    """

    reads_raw = True
    model_input_names = ["input_features"]

    def __init__(
        self,
        sampling_rate: int = 16000,
        num_mel_bins: int = 128,
        target_length: int = 204,
        num_clips: int = 3,
        clip_seconds: float = 2.0,
        mean: float = -4.268,
        std: float = 9.138,
        faithful: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.sampling_rate, self.num_mel_bins, self.target_length = sampling_rate, num_mel_bins, target_length
        self.num_clips, self.clip_seconds = num_clips, clip_seconds
        self.mean, self.std, self.faithful = mean, std, faithful

    def __call__(
        self, audio: Any, sampling_rate: int | None = None, return_tensors: str | None = "pt"
    ) -> BatchFeature:
        """
        Args:
            audio: one or a list; each `(waveform, rate)`, or a waveform: float `(samples,)` or `(channels, samples)`.
            sampling_rate: of waveforms without a rate; the extractor's own if left out.

        Returns:
            float32 `input_features (items, num_clips, 1, num_mel_bins, target_length)`.

        Raises:
            MediaError: empty, NaN or infinity, or shorter than 25 ms.
        """
        audio = [audio] if MODALITIES["audio"].is_item(audio) else list(audio)
        values = torch.stack([self.spectrograms(item, sampling_rate or self.sampling_rate) for item in audio])
        return BatchFeature({"input_features": values.numpy()}, tensor_type=return_tensors)

    def spectrograms(self, item: Any, default_rate: float) -> torch.Tensor:
        """`(num_clips, 1, num_mel_bins, target_length)` of one item."""
        samples, rate = read_waveform(item, default_rate)
        if rate != int(rate):
            raise MediaError(f"Audio of {rate} Hz: expected an integer rate.")
        waveform = require("torchaudio").functional.resample(torch.from_numpy(samples), int(rate), self.sampling_rate)
        if waveform.shape[1] < int(_WINDOW_SECONDS * self.sampling_rate):
            raise MediaError(f"Audio of {samples.shape[1] / rate:.3g} s is too short: expected 0.025 s or more.")
        clips = []
        for start in clip_starts(waveform.shape[1] / self.sampling_rate, self.clip_seconds, self.num_clips):
            first, last = (int(second * self.sampling_rate) for second in (start, start + Fraction(self.clip_seconds)))
            clip = waveform[:, first:last]
            if self.faithful:
                clip -= clip.mean()
            else:
                clip = clip - clip.mean()
            energies = self._fbank(clip)[: self.target_length].T
            clips.append(torch.nn.functional.pad(energies, (0, self.target_length - energies.shape[1])))
        return (torch.stack(clips)[:, None] - self.mean) / self.std

    def _fbank(self, clip: torch.Tensor) -> torch.Tensor:
        """Log mel energies `(frames, num_mel_bins)` of the first channel, a frame for each complete window."""
        return require("torchaudio.compliance.kaldi").fbank(
            clip,
            htk_compat=True,
            sample_frequency=self.sampling_rate,
            use_energy=False,
            window_type="hanning",
            num_mel_bins=self.num_mel_bins,
            dither=0.0,
        )


AutoFeatureExtractor.register(ImageBindAudioConfig, ImageBindAudioFeatureExtractor, exist_ok=True)
