"""Audio in ImageBind's form: Kaldi's log mel spectrograms of clips that are spread over the duration.

Resampling and filter banks give what torchaudio's `functional.resample` and `compliance.kaldi.fbank` give, without that
package; also their tables are in float32, and rounded where theirs are.
"""

import math
from fractions import Fraction
from functools import lru_cache
from typing import Any

import torch
from transformers import AutoFeatureExtractor, BatchFeature
from transformers.feature_extraction_utils import FeatureExtractionMixin

from ...modalities import MODALITIES, MediaError, read_waveform
from .configuration import ImageBindAudioConfig
from .image_processing import clip_starts


_CROSSINGS, _ROLLOFF = 6, 0.99  # torchaudio's defaults
_PREEMPHASIS, _LOW_HZ = 0.97, 20.0  # Kaldi's
_FRAME_SECONDS, _SHIFT_SECONDS = 0.025, 0.010


def resample(waveform: torch.Tensor, rate: int, wanted: int) -> torch.Tensor:
    """`(channels, samples)` at `rate` Hz to `(channels, ceil(samples * wanted / rate))` at `wanted` Hz.

    Each new sample is the sum of old ones under a sinc that is cut off by a Hann window after six zero crossings.
    """
    if rate == wanted:
        return waveform
    divisor = math.gcd(rate, wanted)
    old, new = rate // divisor, wanted // divisor
    kernel, reach = _sinc(old, new)
    padded = torch.nn.functional.pad(waveform, (reach, reach + old))
    # One kernel for each of the `new` places that new samples have between `old` old ones.
    phases = torch.nn.functional.conv1d(padded[:, None], kernel.to(waveform)[:, None], stride=old)
    return phases.transpose(1, 2).flatten(1)[:, : math.ceil(waveform.shape[1] * wanted / rate)]


@lru_cache(maxsize=16)
def _sinc(old: int, new: int) -> tuple[torch.Tensor, int]:
    """Kernels `(new, 2 * reach + old)` float32, and the old samples to either side that they reach."""
    cutoff = min(old, new) * _ROLLOFF
    reach = math.ceil(_CROSSINGS * old / cutoff)
    places = torch.arange(-reach, reach + old, dtype=torch.float32) / old
    offsets = torch.arange(0, -new, -1, dtype=torch.float32) / new
    phase = ((offsets[:, None] + places) * cutoff).clamp(-_CROSSINGS, _CROSSINGS)
    window = torch.cos(phase * math.pi / _CROSSINGS / 2) ** 2
    return torch.where(phase == 0, 1.0, (phase * math.pi).sin() / (phase * math.pi)) * (window * (cutoff / old)), reach


def fbank(waveform: torch.Tensor, rate: int, num_mel_bins: int) -> torch.Tensor:
    """Log mel energies `(frames, num_mel_bins)` of one channel `(samples,)`, by Hann windows of 25 ms every 10 ms.

    Only whole windows count: there are `1 + (samples - window) // shift` of them, none if there are too few samples.
    """
    size, shift = window_length(rate), int(rate * _SHIFT_SECONDS)
    if len(waveform) < size:
        return waveform.new_zeros(0, num_mel_bins)
    frames = waveform.unfold(0, size, shift)
    frames = frames - frames.mean(1, keepdim=True)
    frames = frames - _PREEMPHASIS * torch.cat((frames[:, :1], frames[:, :-1]), dim=1)
    frames = frames * torch.hann_window(size, periodic=False, dtype=frames.dtype)
    padded = 1 << (size - 1).bit_length()
    power = torch.fft.rfft(frames, n=padded).abs() ** 2
    energies = power[:, :-1] @ _mel_banks(num_mel_bins, padded, rate).to(power).T
    return energies.clamp(min=torch.finfo(energies.dtype).eps).log()


def window_length(rate: int) -> int:
    """Samples in a window of `fbank`."""
    return int(rate * _FRAME_SECONDS)


@lru_cache(maxsize=16)
def _mel_banks(bins: int, padded: int, rate: int) -> torch.Tensor:
    """Triangles `(bins, padded / 2)` over the frequencies below half the rate, at equal steps of mel."""
    low, high = (1127.0 * math.log(1.0 + hertz / 700.0) for hertz in (_LOW_HZ, rate / 2))
    step = (high - low) / (bins + 1)
    number = torch.arange(bins, dtype=torch.float32)[:, None]
    left, centre, right = (low + (number + shift) * step for shift in (0.0, 1.0, 2.0))
    frequencies = 1127.0 * (1.0 + torch.arange(padded // 2, dtype=torch.float32) * (rate / padded) / 700.0).log()
    rising = (frequencies - left) / (centre - left)
    falling = (right - frequencies) / (right - centre)
    return torch.minimum(rising, falling).clamp(min=0)


class ImageBindAudioFeatureExtractor(FeatureExtractionMixin):
    """Kaldi's log mel spectrograms of the first channel, less the mean over all channels; filled up with zeros, or cut,
    to `target_length` frames before they are normalised. Audio shorter than a clip is given whole as every clip.

    Args:
        sampling_rate: Hz; other rates are resampled.
        num_mel_bins, target_length: height and width of a spectrogram; a frame is 10 ms.
        mean, std: of the log energies.
        faithful: centre each clip in the waveform itself, as the original does, so that clips which overlap are centred
            twice. That shows in the few frames at which a clip begins or ends within another.
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
            sampling_rate: of those without a rate; the extractor's own if left out.

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
            raise MediaError(f"Audio of {rate} Hz: expected whole samples per second.")
        waveform = resample(torch.from_numpy(samples), int(rate), self.sampling_rate)
        if waveform.shape[1] < window_length(self.sampling_rate):
            raise MediaError(f"Audio of {samples.shape[1] / rate:.3g} s is too short: expected 0.025 s or more.")
        clips = []
        for start in clip_starts(waveform.shape[1] / self.sampling_rate, self.clip_seconds, self.num_clips):
            first, last = (int(second * self.sampling_rate) for second in (start, start + Fraction(self.clip_seconds)))
            clip = waveform[:, first:last]
            if self.faithful:
                clip -= clip.mean()
            else:
                clip = clip - clip.mean()
            energies = fbank(clip[0], self.sampling_rate, self.num_mel_bins)[: self.target_length].T
            clips.append(torch.nn.functional.pad(energies, (0, self.target_length - energies.shape[1])))
        return (torch.stack(clips)[:, None] - self.mean) / self.std


AutoFeatureExtractor.register(ImageBindAudioConfig, ImageBindAudioFeatureExtractor, exist_ok=True)
