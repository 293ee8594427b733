"""Sound: mono waveforms at the rate of the feature extractor."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np
import torch

from ..media import MediaError, read_audio, read_waveform
from ._base import ModalitySpec, as_inputs


@dataclass(frozen=True, kw_only=True)
class AudioSpec(ModalitySpec):
    """Feature extractors with a window of fixed length (Whisper's 30 s) pad to it, and longer sound is refused rather
    than cut. The others pad to the longest in the batch. Those with `reads_raw = True` get each sound as
    `(waveform (channels, samples) float32, rate)`, as it is in the file, and do all else themselves."""

    medium = "audio"
    processor_kind = "feature_extractor"
    suffixes = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a")

    def is_item(self, value: Any) -> bool:
        if isinstance(value, tuple):  # (waveform, sampling rate)
            return len(value) == 2 and isinstance(value[1], Number)
        return not isinstance(value, list) or (bool(value) and isinstance(value[0], Number))

    def read(
        self, source: Any, processor: Any, options: dict[str, Any], **access
    ) -> np.ndarray | tuple[np.ndarray, float]:
        rate = processor.sampling_rate
        if getattr(processor, "reads_raw", False):
            return read_waveform(source, rate, **access)
        waveform = read_audio(source, rate, **access)
        window = self.window(processor)
        if window is not None and len(waveform) > window:
            raise MediaError(
                f"{len(waveform) / rate:.1f} s of sound, but {type(processor).__name__} reads {window / rate:.1f} s "
                "at most and would drop the rest. Cut the sound into pieces and give each as a medium of its own."
            )
        return waveform

    @staticmethod
    def window(processor: Any) -> int | None:
        """Samples in the feature extractor's fixed window, or None."""
        for name in ("n_samples", "nb_max_samples"):
            if isinstance(value := getattr(processor, name, None), int):
                return value
        frames = getattr(processor, "max_length", None)  # AST: frames of 10 ms
        if isinstance(frames, int) and hasattr(processor, "num_mel_bins"):
            return frames * processor.sampling_rate // 100 + processor.sampling_rate // 50
        return None

    def extract(self, items: list[Any], processor: Any, options: dict[str, Any], **kwargs) -> dict[str, torch.Tensor]:
        """`input_features` or `input_values`, float32, and `attention_mask` where the feature extractor gives one."""
        if getattr(processor, "reads_raw", False):
            return as_inputs(processor(items, return_tensors="pt", **kwargs))
        free = self.window(processor) is None
        if "padding" not in kwargs:
            kwargs |= {"padding": True} if free else {}
            accepted = "return_attention_mask" in inspect.signature(processor.__call__).parameters
            # Asked for in the call, it is one of frames; as Whisper's feature extractor gives it by itself, of samples.
            if accepted and (free or getattr(processor, "return_attention_mask", False)):
                kwargs["return_attention_mask"] = True
        return as_inputs(processor(items, sampling_rate=processor.sampling_rate, return_tensors="pt", **kwargs))

    def dummy(self, processor: Any, options: dict[str, Any], size: int = 0) -> np.ndarray:
        rate = processor.sampling_rate
        window = self.window(processor) or rate * 4
        # No round number: some towers read whole frames only.
        time = np.arange(min(rate // 2 * (1 + size) + 13, window)) / rate
        return (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
