"""Features of frozen towers, computed once and read in training instead of media."""

from .build import build_features
from .store import FeatureStore


__all__ = ["FeatureStore", "build_features"]
