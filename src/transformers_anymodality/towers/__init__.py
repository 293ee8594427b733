"""Towers encode one modality. Any `AutoModel` is one: here it is found, cut to what is read, built, loaded and read."""

from ._build import build_tower, feature_length, load_tower, register_tower, tower_class, tower_config
from ._features import LayerOutput, read_features


__all__ = [
    "LayerOutput",
    "build_tower",
    "feature_length",
    "load_tower",
    "read_features",
    "register_tower",
    "tower_class",
    "tower_config",
]
