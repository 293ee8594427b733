"""The feature store: stored features are read instead of media. `_shards` and `_index` describe its files."""

import os
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from ..modalities import MODALITIES, MediaError
from ..modalities._source import describe
from ..training.parts import composite_of
from ._fingerprints import Contents, difference, preprocessing_fingerprint, tower_fingerprint
from ._index import Index
from ._shards import DamagedStoreError, Shard, damaged_shards, read_description


logger = logging.get_logger(__name__)

_MOST_OPEN = 4096  # shards; a process may map some 65 thousand files


class FeatureStore:
    """Features of a data set's media, as frozen towers gave them; for `AnyModalityDataCollator(processor, features=store)`.

    Features are exact: the bits that the tower gave for each medium alone, unpadded. Another batch size may give other last
    bits. Modalities that are not in the store are read as usual.

    Args:
        folder: written by `anymodality features build` (or `build_features`).
        model: the trained model; its towers are compared with those that computed the features. Without it, changed
            towers are not detected.
        missing: for a medium that is not in the store: "error", or "read" the batch's media of that modality.

    Raises:
        DamagedStoreError: a file is damaged, missing or belongs to another store; raised on reading features, too. It
            names the file.
        ValueError: the model has other towers; the message names which, and what differs.
    """

    def __init__(self, folder: str | os.PathLike, model: Any | None = None, *, missing: str = "error"):
        if missing not in ("error", "read"):
            raise ValueError(f'missing must be "error" or "read", not {missing!r}.')
        self.folder, self.missing = Path(folder), missing
        files = {*self.folder.glob("*/index.json"), *self.folder.glob("*/*.safetensors")}
        self.modalities = {place.name: read_description(place) for place in sorted({file.parent for file in files})}
        if not self.modalities:
            raise FileNotFoundError(f"{self.folder} holds no features: run `anymodality features build`.")
        self.indexes = {name: Index(self.folder / name) for name in self.modalities}
        self._contents = Contents(*self.indexes.values())
        self._open: dict[tuple[str, int], Shard] = {}  # open shards cost little except address space
        self._checked: Any = None
        if model is None:
            logger.warning_once(
                "This feature store cannot detect changed towers: pass the model, FeatureStore(folder, model)."
            )
        else:
            self.check(model)

    def __len__(self) -> int:
        return sum(map(len, self.indexes.values()))

    def __getstate__(self) -> dict[str, Any]:
        """For worker processes, which open files themselves."""
        return {**self.__dict__, "_open": {}, "_checked": None}

    # --- what features were computed with ------------------------------------------------------------------------

    def check(self, model: Any) -> None:
        """Raises ValueError if a tower is not the one that computed the features."""
        composite = composite_of(model)
        for name in self.modalities:
            if name in composite.config.modalities:
                self._compare(name, tower=tower_fingerprint(composite, name))

    def check_processor(self, processor: Any) -> None:
        """Raises ValueError if media are prepared differently than for the features."""
        for name in self.modalities:
            if name in processor.modalities:
                self._compare(name, preprocessing=preprocessing_fingerprint(processor, name))

    def _compare(self, name: str, **now: Any) -> None:
        if found := difference(self.modalities[name], now):
            raise ValueError(
                f"The features of {name!r} in {self.folder} belong to another model: {found}. Build them again in another "
                "folder, or train the model that they were built with."
            )

    def verify(self) -> None:
        """Reads every feature. Raises DamagedStoreError for the first file that has changed since it was written."""
        for name in self.modalities:
            for error in damaged_shards(self.folder / name):
                raise error

    # --- reading -------------------------------------------------------------------------------------------------

    def inputs(
        self, processor: Any, media: Mapping[str, list[Any]]
    ) -> tuple[dict[str, torch.Tensor], dict[str, list[int]]]:
        """As the processor's `process_media`, with `<modality>_features` for the modalities in the store, whose media are
        not decoded: `(items, frames, length, dim)`, or `(all features, dim)` if items differ."""
        if self._checked is not processor:
            self.check_processor(processor)
            self._checked = processor
        inputs, token_counts, read = {}, {}, {}
        for name, sources in media.items():
            places = self._places(name, sources) if sources and name in self.modalities else None
            if places is None:
                read[name] = sources
                continue
            features, own = [self._read(name, *place) for place in places], processor.modalities[name]
            if own.options.get("timestamps"):
                raise ValueError(
                    f"{name!r} has timestamps in the text, which a feature store does not hold: train without a store."
                )
            if own.num_tokens is None:
                found = zip(places, features, strict=True)
                lengths = [_lengths(self._shard(name, shard), digest, one) for (digest, shard, _), one in found]
                inputs[f"{name}_features"] = torch.cat([one.flatten(0, -2) for one in features])
                inputs[f"{name}_feature_lengths"] = torch.tensor([*chain.from_iterable(lengths)])
                if own.num_frames is None:
                    inputs[f"{name}_frames"] = torch.tensor([len(item) for item in lengths])
            else:
                inputs[f"{name}_features"] = torch.stack(features)
            token_counts[name] = processor.num_tokens(name, inputs)
        more, more_counts = processor.process_media(read)
        return {**inputs, **more}, {**token_counts, **more_counts}

    def get(self, modality: str, digest: str) -> torch.Tensor:
        """Features of a medium by its content's hash: `(frames, length, dim)`, or `(features, dim)` if frames differ."""
        if (place := self.indexes[modality].place(digest)) is None:
            raise KeyError(digest)
        return self._read(modality, digest, *place)

    def _read(self, modality: str, digest: str, shard: int, checksum: int) -> torch.Tensor:
        return self._shard(modality, shard).get(digest, checksum)

    def _shard(self, modality: str, number: int) -> Shard:
        shard = self._open.get((modality, number))
        if shard is None:
            if len(self._open) >= _MOST_OPEN:
                del self._open[next(iter(self._open))]
            shard = self._open[modality, number] = Shard(self.indexes[modality].path(number))
        return shard

    def _places(self, modality: str, sources: list[Any]) -> list[tuple[str, int, int]] | None:
        """For each medium: the hash of its content, the number of its shard, and its features' checksum. None if one is not
        in the store and media are read instead."""
        places = []
        for i, source in enumerate(sources):
            try:
                digest = self._contents(MODALITIES[modality], source)
            except (MediaError, OSError) as error:
                raise MediaError(f"{modality} {i}: {error}") from error
            if (place := self.indexes[modality].place(digest)) is not None:
                places.append((digest, *place))
                continue
            if self.missing == "read":
                logger.warning_once(f"Media of {modality!r} are not in {self.folder} and are read, which is slow.")
                return None
            raise MediaError(
                f"{modality} {i}: {describe(source)} is not in the feature store {self.folder}: run `anymodality features "
                "build` on this data (it computes only what is missing). Media that are changed at random each time "
                "(augmentation) cannot be stored: switch augmentation off, or train without a store."
            )
        return places


def _lengths(shard: Shard, digest: str, features: torch.Tensor) -> list[int]:
    """Number of features of each frame of a medium."""
    if features.ndim == 3:
        return [features.shape[1]] * len(features)
    lengths = shard.lengths(digest)
    if lengths is None or sum(lengths) != len(features):
        raise DamagedStoreError(shard.path, f"is damaged (it does not say where the frames of {digest} begin)")
    return lengths
