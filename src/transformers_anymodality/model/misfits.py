"""Error messages for parts of a model that do not fit together."""

from dataclasses import replace
from typing import Any

import torch

from ..towers import match_arguments
from ..utils.tensors import in_eval
from .configuration import SELECT_FEATURES, ModalityConfig
from .dummy_items import dummy_inputs, is_among_others


# Keys of the table of modalities for the layout of a tower's inputs and features, and their possible values.
_LAYOUT: dict[str, tuple] = {
    "channels_first": (None, True, False),
    "per_frame": (False, True),
    "side_by_side": (False, True),
    "marks_padding": (None,),
    "select_feature": SELECT_FEATURES,
    "packed": (False, True),  # last: as one row, any features fit
}


@torch.no_grad()
def contradiction(model: Any, modality: str, error: Exception) -> str:
    """Finds the config value that makes a modality's tower fail, as in `error`, or give features of another size; "" if no
    single value does. It tries them on dummy items."""
    settings, tower = model.config.modalities[modality], model.tower(modality)
    # Another run may want more memory again; and other processes would wait for this one.
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or is_among_others():
        return ""
    device = next(tower.parameters(), torch.empty(0)).device
    items = {name: torch.cat([value, value]) for name, value in dummy_inputs(settings, device).items()}
    with in_eval(tower):
        if _fits(model, modality, settings, items):
            return ""
        others = {"inputs": (match_arguments(tower, items),), **_LAYOUT}
        for key, value in ((key, value) for key, values in others.items() for value in values):
            if _fits(model, modality, replace(settings, **{key: value}), items):
                where = f"config.json of {model.name_or_path or 'the model'}: `modalities.{modality}.{key}`"
                return f"{where} is {getattr(settings, key)!r}; it must be {value!r} for its tower, {type(tower).__name__}."
    return ""


def _fits(model: Any, modality: str, settings: ModalityConfig, items: dict[str, torch.Tensor]) -> bool:
    aligner = model.config.aligner_config(modality)
    try:
        features, _ = model.encode_by(settings, modality, items)
    except Exception:  # a forward may raise anything
        return False
    as_long = settings.packed or settings.feature_length in (None, features.shape[-2])
    apart = settings.packed or settings.num_frames is None or len(features) == 2
    return as_long and apart and features.shape[-1] == aligner.feature_size


def wrong_count(masks: dict[str, torch.Tensor], wanted: dict[str, int]) -> str:
    """The error for a modality that has more placeholders than tokens, or fewer."""
    found = {name: int(masks[name].sum()) for name in wanted}
    modality = next(name for name, count in wanted.items() if found[name] != count)
    if not wanted[modality]:
        return (
            f"input_ids hold placeholders of {modality!r}, but no {modality} was given. Pass the processor's full output "
            "to the model; with Trainer, set remove_unused_columns=False."
        )
    return (
        f"{modality} features and placeholder tokens do not match, tokens: {found[modality]}, features: "
        f"{wanted[modality]}. Prepare text and media in one call of the processor that was saved with this model."
    )
