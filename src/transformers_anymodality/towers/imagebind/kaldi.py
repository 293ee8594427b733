"""Audio as ImageBind was trained on it: resampling by a windowed sinc, and Kaldi's log mel filter banks.

Both give what torchaudio's `functional.resample` and `compliance.kaldi.fbank` give, without that package; also their
tables are in float32, and rounded where theirs are.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch


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
