"""Towers encode one modality. Any `AutoModel` can be one. This folder builds it, cuts unused layers, loads and runs it."""

from . import imagebind, imu2clip, precomputed  # noqa: F401 (they register)
from ._build import build_tower, cut_layers, feature_length, load_tower, register_tower, weightless
from ._run import (
    MASKS,
    check_main_input,
    compute_dtype,
    drop_unread,
    is_trained,
    main_input,
    match_arguments,
    outermost,
    put_back,
    required_arguments,
    run_tower,
    trace_tower,
    watch_last_layer,
)


__all__ = [
    "MASKS",
    "build_tower",
    "check_main_input",
    "compute_dtype",
    "cut_layers",
    "drop_unread",
    "feature_length",
    "is_trained",
    "load_tower",
    "main_input",
    "match_arguments",
    "outermost",
    "put_back",
    "required_arguments",
    "register_tower",
    "run_tower",
    "trace_tower",
    "watch_last_layer",
    "weightless",
]
