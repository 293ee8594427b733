"""Towers encode one modality. Any `AutoModel` is one: here it is found, cut to what is read, built, loaded and read."""

from ._build import (
    build_tower,
    cut_layers,
    feature_length,
    load_tower,
    register_tower,
    tower_class,
    tower_config,
    weightless,
)
from ._run import drop_unread, main_input, match_arguments, outermost, put_back, run_tower, trace_tower
from .imagebind import ImageBindConfig, ImageBindModel
from .imu2clip import Imu2ClipConfig, Imu2ClipModel, Imu2ClipPatchTransformerConfig, Imu2ClipPatchTransformerModel
from .precomputed import PrecomputedConfig, PrecomputedModel


__all__ = [
    "ImageBindConfig",
    "ImageBindModel",
    "Imu2ClipConfig",
    "Imu2ClipModel",
    "Imu2ClipPatchTransformerConfig",
    "Imu2ClipPatchTransformerModel",
    "PrecomputedConfig",
    "PrecomputedModel",
    "build_tower",
    "cut_layers",
    "drop_unread",
    "feature_length",
    "load_tower",
    "main_input",
    "match_arguments",
    "outermost",
    "put_back",
    "register_tower",
    "run_tower",
    "tower_class",
    "tower_config",
    "trace_tower",
    "weightless",
]
