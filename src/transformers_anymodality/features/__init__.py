"""Features of frozen towers, computed once and read in training instead of media."""

from ._shards import DamagedStoreError
from .build import build_features
from .store import FeatureStore


__all__ = ["DamagedStoreError", "FeatureStore", "build_features"]
