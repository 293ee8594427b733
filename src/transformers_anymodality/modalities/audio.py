"""Audio: one channel at the rate of the feature extractor, or unchanged waveforms."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from numbers import Number, Real
from typing import Any

import numpy as np

from ..utils.imports import require
from ._arrays import check_windows, first_bad, positive, to_numpy, windows
from ._base import ModalitySpec
from ._recordings import check_recording, decoding
from ._sound_files import check_channels, check_samples, fold, read_sound
from ._source import DEFAULT_LIMITS, Limits, MediaError, describe, is_array, open_source, told


_HERTZ = " of Hz"


@dataclass(frozen=True, kw_only=True)
class AudioSpec(ModalitySpec):
    """Feature extractors with a window of fixed length (often 30 s) pad to it. Longer audio is an error, unless the option
    `windows` gives the maximum number of windows to cut it into; each overlaps the one before by `overlap` seconds. With
    `windows`, features of padding are dropped. Other feature extractors pad to the longest item of the batch. Those with
    `reads_raw = True` get `(waveform (channels, samples) float32, rate)`, unchanged, and do the rest themselves."""

    medium = "audio"
    processor_kind = "feature_extractor"
    suffixes = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a")

    @property
    def options(self) -> dict[str, Any]:
        return {"windows": None, "overlap": 0.0}

    def adapted(self, processor: Any, options: dict[str, Any]) -> Any:
        check_windows(options, self.window(processor), processor)
        return processor

    def most_frames(self, options: dict[str, Any]) -> int | None:
        return options.get("windows")

    def frames(self, item: np.ndarray, processor: Any, options: dict[str, Any]) -> list[np.ndarray]:
        return windows(item, self._window(processor), options, processor.sampling_rate)

    def share(self, frame: np.ndarray, processor: Any, options: dict[str, Any]) -> Fraction:
        return min(Fraction(1), Fraction(len(frame), self._window(processor)))

    def _window(self, processor: Any) -> int:
        """The window of a feature extractor that has one, in samples."""
        length = self.window(processor)
        assert length is not None
        return length

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
        if window is not None and len(waveform) > window and self.most_frames(options) is None:
            raise MediaError(
                f"{len(waveform) / rate:.1f} s of audio, but {type(processor).__name__} reads at most {window / rate:.1f} s "
                "and would drop the rest. Cut the audio into several files, or compose with `windows`."
            )
        return waveform

    @staticmethod
    def window(processor: Any) -> int | None:
        """Samples in the feature extractor's fixed window, or None."""
        for name in ("n_samples", "nb_max_samples"):
            if isinstance(value := getattr(processor, name, None), int):
                return value
        frames = getattr(processor, "max_length", None)  # in frames of 10 ms
        if isinstance(frames, int) and hasattr(processor, "num_mel_bins"):
            return frames * processor.sampling_rate // 100 + processor.sampling_rate // 50
        return None

    def extract(self, items: list[Any], processor: Any, options: dict[str, Any], **kwargs) -> Mapping[str, Any]:
        """`input_features` or `input_values`, float32, and `attention_mask` if the feature extractor gives one."""
        if getattr(processor, "reads_raw", False):
            return processor(items, return_tensors="pt", **kwargs)
        free = self.window(processor) is None
        if "padding" not in kwargs:
            kwargs |= {"padding": True} if free else {}
            accepted = _can_give_masks(type(processor))
            # A requested mask is over frames; one that is returned by default may be over samples.
            if accepted and (free or getattr(processor, "return_attention_mask", False)):
                kwargs["return_attention_mask"] = True
        return processor(items, sampling_rate=processor.sampling_rate, return_tensors="pt", **kwargs)

    def dummy(self, processor: Any, options: dict[str, Any], size: int = 0) -> np.ndarray:
        rate = processor.sampling_rate
        window = self.window(processor) or rate * 4
        # Not a round number: some towers read only complete frames.
        time = np.arange(min(rate // 2 * (1 + size) + 13, window)) / rate
        return (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)


@lru_cache
def _can_give_masks(feature_extractor: type) -> bool:
    return "return_attention_mask" in inspect.signature(feature_extractor.__call__).parameters


def read_audio(
    source: Any, sampling_rate: int, *, allow_urls: bool = False, limits: Limits = DEFAULT_LIMITS
) -> np.ndarray:
    """Reads a recording as one channel at `sampling_rate`.

    PyAV decodes files. Channels are averaged. soxr (HQ) resamples.

    Args:
        source: any source of `open_source`; an array, tensor or list of numbers, which must already be at
            `sampling_rate`; `(array, rate)`; `{"array": ..., "sampling_rate": ...}`; or a torchcodec `AudioDecoder`.
            Arrays are (samples,), (channels, samples) or (samples, channels) with at most 8 channels; float in [-1, 1],
            or int16 or int32 over their full range. A dict may have `"speed"`, from 0.5 to 2: 1.1 is a tenth faster,
            and higher.
        sampling_rate: Hz of the result.
        allow_urls, limits: as in `open_source`.

    Returns:
        float32, shape (samples,).

    Raises:
        MediaError: unreadable, truncated, empty, too long, too many channels, NaN or infinity (at the named time).
        ImportError: PyAV is missing and the source is a file, or soxr is missing and the rates differ.
    """
    wanted = positive(sampling_rate, "sampling_rate", _HERTZ)
    samples, rate, name = _read(source, wanted, True, allow_urls, limits)
    return _resample(samples[0], rate, wanted, name)


def read_waveform(
    source: Any, sampling_rate: int, *, allow_urls: bool = False, limits: Limits = DEFAULT_LIMITS
) -> tuple[np.ndarray, float]:
    """Reads an unchanged recording: every channel, at its own rate. For feature extractors that resample themselves.

    Args:
        source, allow_urls, limits: as in `read_audio`, with the same errors.
        sampling_rate: Hz of a bare array.

    Returns:
        float32, shape (channels, samples); and its rate in Hz.
    """
    samples, rate, _ = _read(source, positive(sampling_rate, "sampling_rate", _HERTZ), False, allow_urls, limits)
    return np.ascontiguousarray(samples, dtype=np.float32), rate


def _read(
    source: Any, default_rate: float, mix: bool, allow_urls: bool, limits: Limits
) -> tuple[np.ndarray, float, str]:
    """Checked samples (channels, samples), one channel with `mix`; their rate, and the source's name."""
    name, given, rate = describe(source), source, default_rate
    if isinstance(source, tuple) and len(source) == 2 and isinstance(source[1], Real):
        name = f"(array, {source[1]}) with {describe(source[0])}"
        given, rate = source[0], positive(source[1], f"The sampling rate of {name}", _HERTZ)
    elif isinstance(source, Mapping) and "array" in source:
        if source.get("sampling_rate") is None:
            raise MediaError(f'{name} has no "sampling_rate": expected {{"array": ..., "sampling_rate": Hz}}.')
        given, rate = source["array"], positive(source["sampling_rate"], f'"sampling_rate" of {name}', _HERTZ)
    if given is not source or is_array(source) or isinstance(source, (list, tuple)):
        samples = _from_array(to_numpy(given, name), name, mix)
    elif hasattr(source, "get_samples_played_in_range"):
        samples, rate = _from_decoder(source, name, mix, limits)
    else:
        file = open_source(source, allow_urls=allow_urls, limits=limits)
        check_recording(file, name)
        samples, rate = read_sound(file, name, mix, limits)
    if samples.size == 0:
        raise MediaError(f"{name} holds no samples: expected a non-empty recording.")
    if (speed := told(source).get("speed")) is not None:
        if not 0.5 <= positive(speed, f'"speed" of {name}') <= 2:
            raise MediaError(f'"speed" of {name} is {speed!r}, expected 0.5 to 2.')
        rate = float(round(rate * speed))  # integer hertz, so that resamplers get small fractions
    limits.check_seconds(samples.shape[1] / rate, name)
    _check_finite(samples, rate, name)
    return samples, rate, name


def _check_finite(samples: np.ndarray, rate: float, name: str, when: str = "") -> None:
    bad = first_bad(samples)
    if bad is not None:
        raise MediaError(
            f"{name} holds {samples[bad]} at {bad[-1] / rate:.6g} s (sample {bad[-1]}){when}: expected numbers."
        )


def _from_array(values: np.ndarray, name: str, mix: bool) -> np.ndarray:
    """float32 (channels, samples) from (samples,), (channels, samples) or (samples, channels)."""
    if values.ndim == 2:
        rows, columns = values.shape
        if rows == columns:
            raise MediaError(f"{name} has shape {values.shape}: the axis of the channels is unclear. Give (samples,).")
        check_channels(min(rows, columns), name)
    elif values.ndim != 1:
        raise MediaError(f"{name} has shape {values.shape}, expected (samples,) or (channels, samples).")
    if values.dtype.kind == "f":
        scale = 1.0
    elif values.dtype in (np.int16, np.int32):
        scale = 1.0 / -float(np.iinfo(values.dtype).min)
    else:
        raise MediaError(
            f"{name} holds {values.dtype}, expected float in [-1, 1], int16 or int32: the full scale of other types "
            "is unknown."
        )
    values = values[None] if values.ndim == 1 else values
    values = fold(values.T if values.shape[0] > values.shape[1] else values, mix)
    with np.errstate(over="ignore"):
        return (values * scale if scale != 1.0 else values).astype(np.float32)


def _resample(samples: np.ndarray, rate: float, wanted: float, name: str) -> np.ndarray:
    """Resamples with soxr, the cleanest and fastest in our tests (44.1 to 16 kHz). Just above half the wanted rate, soxr
    leaves -137 dB of a tone, torchaudio's default -14 dB and its Kaiser window of 64 crossings -118 dB, scipy's
    `resample_poly` -23 dB; at 0.9 of it, they lose 0.01, 2.4, 0.02 and 0.7 dB. 30 s take 12, 13, 29 and 27 ms."""
    if rate == wanted:
        return np.ascontiguousarray(samples, dtype=np.float32)
    soxr = require("soxr")
    try:
        result = soxr.resample(samples, rate, wanted, quality="HQ")
    except (ValueError, RuntimeError) as error:
        raise MediaError(f"{name} cannot be resampled from {rate:g} to {wanted:g} Hz ({error}).") from error
    if result.size == 0:
        raise MediaError(f"{name} is too short: {samples.size} samples at {rate:g} Hz leave none at {wanted:g} Hz.")
    _check_finite(result, wanted, name, " after resampling")
    return np.ascontiguousarray(result, dtype=np.float32)


def _from_decoder(decoder: Any, name: str, mix: bool, limits: Limits) -> tuple[np.ndarray, float]:
    """Samples (channels, samples) and rate of a torchcodec `AudioDecoder`."""
    with decoding(name, "sound"):
        information = decoder.metadata
        limits.check_seconds(information.duration_seconds_from_header or 0.0, name)
        check_channels(information.num_channels or 1, name)
        promised = float(information.duration_seconds_from_header or 0.0) * float(information.sample_rate or 0)
        check_samples(round(promised), information.num_channels or 1, mix, name, limits)
        # One second beyond the limit is enough to detect it, at any length.
        begin = information.begin_stream_seconds_from_header or 0.0
        decoded = decoder.get_samples_played_in_range(begin, begin + limits.max_seconds + 1.0)
    data = to_numpy(decoded.data, name)
    check_channels(data.shape[0], name)
    return fold(data, mix).astype(np.float32), float(decoded.sample_rate)
