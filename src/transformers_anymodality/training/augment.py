"""Augmentation of audio in training: SpecAugment (Park et al. 2019, https://arxiv.org/abs/1904.08779) by torchaudio."""

from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..modalities import MODALITIES
from ..processing.processor import AnyModalityProcessor
from ..utils.imports import require
from .parts import composite_of


def spec_augment(model: nn.Module, processor: AnyModalityProcessor, **settings: Any) -> RemovableHandle:
    """Masks stripes of time and of frequency in the spectrograms that a model is trained on, new ones in each step.

    Evaluation and generation see unmasked spectrograms: nothing is masked in eval mode or without gradients. The masks lie
    anywhere in the padded length, and hold the mean of the batch. Checkpoints do not store the masking.

    Args:
        model: a composite, also within PEFT or a distributed wrapper.
        processor: its processor, which knows the number of bands.
        settings: of `torchaudio.transforms.SpecAugment`: `n_time_masks`, `time_mask_param` (frames at most),
            `n_freq_masks`, `freq_mask_param` (bands at most), `p` (share of time that a mask may cover).

    Returns:
        A handle; its `remove()` ends the masking.

    Raises:
        ValueError: no tower of the model reads spectrograms; in training, a batch holds stored features (of a feature
            store) instead.
    """
    mask = require("torchaudio.transforms").SpecAugment(**settings)
    bands = spectrograms(processor)
    if not bands:
        raise ValueError(
            "SpecAugment masks spectrograms, but no tower of this model reads them: its modalities are "
            f"{', '.join(processor.modalities)}. For towers of waveforms, set `mask_time_prob` in their config."
        )

    def before(module: nn.Module, args: tuple, inputs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if not (module.training and torch.is_grad_enabled()):
            return args, inputs
        if stored := [name for name in bands if inputs.get(f"{name}_features") is not None]:
            raise ValueError(
                f"SpecAugment cannot mask the stored features of {stored[0]!r}: train without SpecAugment, or without "
                "the feature store."
            )
        made = {}
        for modality, (name, count) in bands.items():
            if (values := inputs.get(name)) is not None:
                made[name] = _masked(mask, values, count, modality)
        return args, {**inputs, **made}

    return composite_of(model).register_forward_pre_hook(before, with_kwargs=True)


def spectrograms(processor: AnyModalityProcessor) -> dict[str, tuple[str, int]]:
    """Audio modalities whose towers read spectrograms -> their model input, and its number of bands."""
    found = {}
    for name, own in processor.modalities.items():
        if MODALITIES[name].medium == "audio":
            part, given = processor.sub_processor(name), own.inputs[own.main_input]
            bands = getattr(part, "num_mel_bins", None) or getattr(part, "feature_size", 1)
            if bands > 1 and (given == "input_features" or hasattr(part, "num_mel_bins")):
                found[name] = (own.main_input, bands)
    return found


def _masked(mask: nn.Module, values: torch.Tensor, bands: int, modality: str) -> torch.Tensor:
    """`(..., bands, frames)`, or `(..., frames, bands)`, masked."""
    if values.shape[-2] == bands:
        return mask(values)
    if values.shape[-1] == bands:
        return mask(values.transpose(-1, -2)).transpose(-1, -2)
    raise ValueError(f"The {modality} input has the shape {tuple(values.shape)}, which has no axis of {bands} bands.")
