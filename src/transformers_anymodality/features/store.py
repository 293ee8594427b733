"""The feature store: shards of safetensors, and what the features in them were computed by.

store/image/index.json            the tower, how it is read, the preparation of media: all that features depend on
store/image/<hash>.safetensors    (frames, length, dim) by the hash of a medium's content, or (features, dim) of one whose
                                  frames differ; finished when it is there
store/image/*.arrow               what is in which shard (`_index`)
"""

import hashlib
import json
import os
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers.utils import logging

from ..modalities import MODALITIES, MediaError
from ..modalities._source import describe
from ..training.parts import composite_of
from ..utils.files import read_json, written_whole
from ._fingerprints import Contents, difference, preprocessing_fingerprint, tower_fingerprint
from ._index import Index


logger = logging.get_logger(__name__)

FORMAT = 1
_MOST_OPEN = 4096  # shards; a process may map some 65 thousand files


class FeatureStore:
    """Features of a data set's media, as frozen towers gave them; for `AnyModalityDataCollator(processor, features=store)`.

    Features are exact: the bits that the tower gave for each medium by itself, unpadded. Batches of another size may have
    given other last bits. Modalities that the store lacks are read as ever.

    Args:
        folder: written by `anymodality features build` (or `build_features`).
        model: what is trained; its towers are compared with those that computed the features. Without, a changed tower
            goes unnoticed.
        missing: for a medium that is not in the store: "error", or "read" the batch's media of that modality.

    Raises:
        ValueError: the model has other towers; the message names which, and what differs.
    """

    def __init__(self, folder: str | os.PathLike, model: Any | None = None, *, missing: str = "error"):
        if missing not in ("error", "read"):
            raise ValueError(f'missing must be "error" or "read", not {missing!r}.')
        self.folder, self.missing = Path(folder), missing
        self.modalities = {index.parent.name: read_json(index) for index in sorted(self.folder.glob("*/index.json"))}
        if not self.modalities:
            raise FileNotFoundError(f"{self.folder} holds no features: run `anymodality features build`.")
        self.indexes: dict[str, Index] = {}
        for name, index in self.modalities.items():
            if index["format"] != FORMAT:
                raise ValueError(
                    f"The features of {name!r} in {self.folder} have the old format {index['format']}: build them again."
                )
            self.indexes[name] = Index(self.folder / name)
        self._contents = Contents(*self.indexes.values())
        self._open: dict[Path, Any] = {}  # shards, which cost address space alone
        self._told: dict[Path, dict[str, list[int]]] = {}  # features of each frame, of media whose frames differ
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
        """For worker processes, which open files of their own."""
        return {**self.__dict__, "_open": {}, "_told": {}, "_checked": None}

    # --- what features were computed by --------------------------------------------------------------------------

    def check(self, model: Any) -> None:
        """Raises ValueError if a tower is not the one that computed the features."""
        composite = composite_of(model)
        for name in self.modalities:
            if name in composite.config.modalities:
                self._compare(name, tower=tower_fingerprint(composite, name))

    def check_processor(self, processor: Any) -> None:
        """Raises ValueError if media are prepared in another way than they were for the features."""
        for name in self.modalities:
            if name in processor.modalities:
                self._compare(name, preprocessing=preprocessing_fingerprint(processor, name))

    def _compare(self, name: str, **now: Any) -> None:
        if found := difference(self.modalities[name], now):
            raise ValueError(
                f"The features of {name!r} in {self.folder} are of another model: {found}. Build them again in another "
                "folder, or train the model that they were built with."
            )

    # --- reading -------------------------------------------------------------------------------------------------

    def inputs(
        self, processor: Any, media: Mapping[str, list[Any]]
    ) -> tuple[dict[str, torch.Tensor], dict[str, list[int]]]:
        """As the processor's `process_media`, with `<modality>_features` for the modalities in the store, whose media are
        not decoded: `(items, frames, length, dim)`, or `(all features, dim)` where items differ."""
        if self._checked is not processor:
            self.check_processor(processor)
            self._checked = processor
        inputs, token_counts, read = {}, {}, {}
        for name, sources in media.items():
            digests = self._digests(name, sources) if sources and name in self.modalities else None
            if digests is None:
                read[name] = sources
                continue
            features, own = [self.get(name, digest) for digest in digests], processor.modalities[name]
            if own.options.get("timestamps"):
                raise ValueError(
                    f"{name!r} has timestamps in the text, which a feature store does not hold: train without a store."
                )
            if own.num_tokens is None:
                lengths = [self._lengths(name, digest, one) for digest, one in zip(digests, features, strict=True)]
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
        """Of a medium by its content's hash, `(frames, length, dim)`, or `(features, dim)` where frames differ."""
        return self._shard(modality, digest).get_tensor(digest)

    def _lengths(self, modality: str, digest: str, features: torch.Tensor) -> list[int]:
        """Features of each frame."""
        if features.ndim == 3:
            return [features.shape[1]] * len(features)
        path = self.indexes[modality].shard(digest)
        if path not in self._told:
            self._told[path] = json.loads(self._shard(modality, digest).metadata()["lengths"])
        return self._told[path][digest]

    def _shard(self, modality: str, digest: str) -> Any:
        path = self.indexes[modality].shard(digest)
        if path is None:
            raise KeyError(digest)
        if path not in self._open:
            if len(self._open) >= _MOST_OPEN:
                self._told.pop(oldest := next(iter(self._open)), None)
                del self._open[oldest]
            try:
                self._open[path] = safe_open(path, "pt")
            except SafetensorError as error:
                raise ValueError(
                    f"{path} is damaged ({error}). Delete it, and run `anymodality features build` again: it computes "
                    "only what is missing."
                ) from error
        return self._open[path]

    def _digests(self, modality: str, sources: list[Any]) -> list[str] | None:
        digests = []
        for i, source in enumerate(sources):
            try:
                digests.append(self._contents(MODALITIES[modality], source))
            except (MediaError, OSError) as error:
                raise MediaError(f"{modality} {i}: {error}") from error
            if digests[-1] in self.indexes[modality]:
                continue
            if self.missing == "read":
                logger.warning_once(f"Media of {modality!r} are not in {self.folder} and are read, which is slow.")
                return None
            raise MediaError(
                f"{modality} {i}: {describe(source)} is not in the feature store {self.folder}: run `anymodality features "
                "build` on this data (it computes only what is missing). Media that are changed at random each time "
                "(augmentation) cannot be stored: switch augmentation off, or train without a store."
            )
        return digests


# --- files -----------------------------------------------------------------------------------------------------------


class ShardWriter:
    """Gathers features, and writes a shard whenever there are enough of them: whole, or not at all.

    Args:
        folder: of one modality.
        shard_bytes: of features, from which on a shard is written.
        name: of this process among those that write.
    """

    def __init__(self, folder: Path, shard_bytes: int, name: str):
        self.folder, self.shard_bytes, self.name = folder, shard_bytes, name
        self.tensors: dict[str, torch.Tensor] = {}
        self.files: dict[str, list] = {}
        self.lengths: dict[str, list[int]] = {}
        self.size = 0

    def add(self, digest: str, features: torch.Tensor, lengths: list[int], files: dict[str, list]) -> None:
        """`features (features, dim)` of a medium; `lengths`: those of each frame."""
        if len(set(lengths)) == 1:
            features = features.unflatten(0, (len(lengths), -1))
        else:
            self.lengths[digest] = lengths
        # A tower of convolutions gives (places, channels) as a view of (channels, places), which safetensors refuses.
        self.tensors[digest] = features.cpu().clone(memory_format=torch.contiguous_format)
        self.files |= files
        self.size += features.nbytes
        if self.size >= self.shard_bytes:
            self.flush()

    def flush(self) -> None:
        if not self.tensors:
            return
        name = hashlib.blake2b("".join(sorted(self.tensors)).encode(), digest_size=8).hexdigest()
        with written_whole(self.folder / f"{name}.safetensors", self.name) as file:
            save_file(self.tensors, file, {"files": json.dumps(self.files), "lengths": json.dumps(self.lengths)})
        self.tensors, self.files, self.lengths, self.size = {}, {}, {}, 0
