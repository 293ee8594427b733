"""Signals of several channels over time: IMU, ECG and what else a sensor records."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor, BatchFeature, PreTrainedConfig
from transformers.feature_extraction_utils import FeatureExtractionMixin

from ..media import MediaError, read_signal
from ..media._arrays import to_numpy
from ._base import ModalitySpec


class SignalFeatureExtractor(FeatureExtractionMixin):
    """Brings recordings to one length: what is missing at the end is filled with zeros, what is too long is refused.

    Args:
        channels: names of the columns, in the order of the model's channels.
        sampling_rate: Hz.
        num_samples: samples per recording.
        mean, std: per channel, subtracted and divided by; None to leave the units as they are.
        channels_first: give `(items, channels, samples)` instead of `(items, samples, channels)`.
    """

    model_input_names = ["input_values"]

    def __init__(
        self,
        channels: list[str] | tuple[str, ...] = (),
        sampling_rate: float = 1.0,
        num_samples: int = 1,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        channels_first: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.channels = list(channels)
        self.sampling_rate = sampling_rate
        self.num_samples = num_samples
        self.mean = mean
        self.std = std
        self.channels_first = channels_first

    def __call__(self, signals: list[np.ndarray], return_tensors: str | None = "pt", **kwargs) -> BatchFeature:
        """`signals`: arrays `(samples, channels)`. Returns float32 `input_values`."""
        batch = np.zeros((len(signals), self.num_samples, len(self.channels)), dtype=np.float32)
        for row, signal in enumerate(signals):
            self.check_length(len(signal))
            values = np.asarray(signal, dtype=np.float32)
            if self.mean is not None:
                values = values - np.asarray(self.mean, dtype=np.float32)
            if self.std is not None:
                values = values / np.asarray(self.std, dtype=np.float32)
            batch[row, : len(values)] = values
        if self.channels_first:
            batch = batch.swapaxes(1, 2)
        return BatchFeature({"input_values": batch}, tensor_type=return_tensors)

    def check_length(self, samples: int) -> None:
        if samples > self.num_samples:
            raise MediaError(
                f"A recording of {samples} samples ({samples / self.sampling_rate:.2f} s), but the tower reads "
                f"{self.num_samples} ({self.num_samples / self.sampling_rate:.2f} s) and the rest would be lost. Cut "
                "it, give several, or compose with a larger `seconds`."
            )


class SignalConfig(PreTrainedConfig):
    """Stands for `SignalFeatureExtractor` in the table of AutoFeatureExtractor, whose keys are configs."""

    model_type = "anymodality_signal"


AutoFeatureExtractor.register(SignalConfig, SignalFeatureExtractor, exist_ok=True)


@dataclass(frozen=True, kw_only=True)
class SignalSpec(ModalitySpec):
    """
    Args:
        channels: names of the columns; say their units and axes beside them.
        sampling_rate: Hz; recordings with other or irregular time stamps are resampled to it.
        seconds: the longest recording; a tower whose config tells a `context_length` overrides it. One that tells
            `channels_first` gets its recordings so.
    """

    channels: tuple[str, ...]
    sampling_rate: float
    seconds: float

    medium = "signal"
    processor_kind = "feature_extractor"
    suffixes = (".csv", ".npy", ".parquet")

    @property
    def options(self) -> dict[str, Any]:
        return {
            "sampling_rate": self.sampling_rate,
            "seconds": None,
            "channels_first": False,
            "mean": None,
            "std": None,
        }

    def default_processor(self, tower_config: PreTrainedConfig, options: dict[str, Any]) -> SignalFeatureExtractor:
        context = getattr(tower_config, "context_length", None)
        seconds = options["seconds"] or self.seconds
        fixed = options["seconds"] is None and isinstance(context, int)
        return SignalFeatureExtractor(
            channels=self.channels,
            sampling_rate=options["sampling_rate"],
            num_samples=context if fixed else round(seconds * options["sampling_rate"]),
            mean=options["mean"],
            std=options["std"],
            channels_first=options["channels_first"] or bool(getattr(tower_config, "channels_first", False)),
        )

    def is_item(self, value: Any) -> bool:
        """Rows of numbers are one recording."""
        rows = isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], (list, tuple))
        return not isinstance(value, (list, tuple)) or (rows and bool(value[0]) and isinstance(value[0][0], Number))

    def read(self, source: Any, processor: Any, options: dict[str, Any], **access) -> np.ndarray:
        channels = getattr(processor, "channels", None) or self.channels
        if isinstance(source, (list, tuple)):
            source = to_numpy(source, f"a list of {len(source)} rows")
        signal = read_signal(source, channels, processor.sampling_rate, **access)
        if hasattr(processor, "check_length"):
            processor.check_length(len(signal))
        return signal

    def extract(self, items: list[Any], processor: Any, options: dict[str, Any], **kwargs) -> dict[str, torch.Tensor]:
        """`input_values (items, samples, channels)` float32 (channels first if the feature extractor says so)."""
        return dict(processor(items, return_tensors="pt", **kwargs))

    def dummy(self, processor: Any, options: dict[str, Any], size: int = 0) -> np.ndarray:
        samples = max(1, getattr(processor, "num_samples", 64) // (2 - size))
        channels = len(getattr(processor, "channels", None) or self.channels)
        return np.sin(np.arange(samples)[:, None] / 5 + np.arange(channels)).astype(np.float32)
