"""Builds a feature store: runs the media of a data set through their frozen towers, once."""

import os
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import nn
from tqdm import tqdm
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, set_seed
from transformers.utils import logging

from ..data.records import RecordError, located, read_chat
from ..modalities import MODALITIES
from ..model.configuration import SIZES, AnyModalityConfig, item_lengths
from ..model.frames import Frames
from ..model.modeling import AnyModalityForCausalLM
from ..towers import compute_dtype
from ..utils.files import delete_unfinished
from ..utils.hub import hub_kwargs
from ..utils.imports import require
from ..utils.processes import place_among, read_ahead
from ..utils.tensors import in_dtype, in_eval
from ._fingerprints import DTYPES, MOST_REMEMBERED, Contents, difference, preprocessing_fingerprint, tower_fingerprint
from ._index import Index, mend_index
from ._shards import FORMAT, DamagedStoreError, ShardWriter, damaged_shards, read_description, write_description


logger = logging.get_logger(__name__)

_MOST_HELD = 2**30  # bytes of media that wait for others of their size, if there are many sizes
_DRAWS = 6  # preparations of one medium, to check that they are the same each time


def build_features(
    model: Any,
    processor: Any,
    records: Iterable[Mapping[str, Any]],
    folder: str | os.PathLike,
    *,
    modalities: Iterable[str] | None = None,
    batch_size: int = 16,
    dtype: torch.dtype | None = None,
    workers: int = 0,
    shard_bytes: int = 256 * 2**20,
    media_root: str | os.PathLike | None = None,
    on_error: str = "error",
    verify: bool = True,
    rank: int | None = None,
    world_size: int | None = None,
    verbose: bool = True,
) -> dict[str, int]:
    """Runs the towers over the media of a data set, and keeps their features for `FeatureStore`.

    Features in the folder are not computed again: a killed build continues after its last complete shard. Files that are
    damaged or belong to another store are renamed first (`*.damaged`), and their features are computed again. Each medium
    is prepared alone, so that its features do not depend on padding. Several processes may build one store at once, each
    from its share of the records: keep samples of one medium together, because two shares compute it twice.

    Args:
        model: the composite, or from `load_towers`; its towers run on its device, in eval mode.
        records: records for `data.normalize`: a list, or a data set of `datasets`, map-style or streaming.
        folder: new, or from an earlier build with the same towers.
        modalities: modalities to encode; all of the model's by default.
        batch_size: media per run of a tower.
        dtype: dtype of the towers' computation and of the features; the model's own by default. The model is unchanged.
        workers: processes that read and prepare media.
        shard_bytes: bytes of features per file; a killed build loses at most this much.
        media_root: folder that relative paths are in.
        on_error: for a sample or medium that cannot be read: "error", or "skip" it, with a count at the end.
        verify: whether to read all existing features and compare checksums. Large stores take a while: each process reads
            all of them.
        rank, world_size: from `accelerate launch` or `torchrun` by default. If you split the records yourself, give each
            process its own rank and a `world_size` of 1.

    Returns:
        Modality -> number of features in the store now.

    Raises:
        ValueError: the folder holds features of another tower or preparation, another process builds with the same rank, or
            media are prepared at random.
    """
    names = list(model.config.modalities if modalities is None else modalities)
    if unknown := sorted(set(names) - set(model.config.modalities)):
        raise ValueError(f"This model has no {', '.join(unknown)}; it has {', '.join(model.config.modalities)}.")
    rank, world_size = place_among(rank, world_size)
    with in_eval(model), ExitStack() as stack:
        for name in names:
            stack.enter_context(_alone(Path(folder, name), rank))
            _open_store(Path(folder, name), model, processor, name, dtype, verify)
        writers = {name: ShardWriter(Path(folder, name), shard_bytes, f"{rank}") for name in names}
        media = _Media(records, processor, folder, names, media_root, on_error)
        places = _share(records, rank, world_size)
        bar = tqdm(read_ahead(places, media, workers), desc="features", unit="sample", disable=not verbose or rank > 0)
        for tower in {model.tower(name) for name in names if dtype is not None}:
            stack.enter_context(in_dtype(tower, dtype))
        skipped = _run(model, bar, writers, batch_size)
    if skipped:
        logger.warning(f"{skipped} samples or media could not be read and are not in {folder}.")
    return {name: len(Index(Path(folder, name))) for name in names}


@contextmanager
def _alone(place: Path, rank: int) -> Iterator[None]:
    """Raises ValueError if another process builds these features with the same rank. A killed process holds no lock."""
    place.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(place / f".{rank}.lock", timeout=0):
            yield
    except Timeout as error:
        raise ValueError(
            f"Another process builds {place} as rank {rank}: wait until it has ended, or give each process its own rank "
            "(`--num-processes`, torchrun)."
        ) from error


def _open_store(place: Path, model: Any, processor: Any, name: str, dtype: torch.dtype | None, verify: bool) -> None:
    """Writes what features depend on to a file, or raises ValueError if existing features depend on something else.
    Renames damaged files."""
    now = {
        "format": FORMAT,
        "dtype": str(dtype or compute_dtype(model.tower(name))).removeprefix("torch."),
        "tower": tower_fingerprint(model, name, DTYPES),
        "preprocessing": preprocessing_fingerprint(processor, name),
    }
    try:
        stored = read_description(place)
    except DamagedStoreError as error:
        if error.path.exists():
            _set_aside(error)
        write_description(place, stored := now)
    if found := difference(stored, now):
        raise ValueError(f"{place} holds features of another model: {found}. Choose another folder, or delete it.")
    for error in damaged_shards(place) if verify else ():
        _set_aside(error)
    delete_unfinished(place)
    mend_index(place)


def _set_aside(error: DamagedStoreError) -> None:
    aside = error.path.with_name(f"{error.path.name}.damaged")
    with suppress(FileNotFoundError):  # another process was faster
        error.path.rename(aside)
        logger.warning(
            f"{error.what} It was renamed to {aside.name}, which you may delete; its features are computed again."
        )


# --- media -----------------------------------------------------------------------------------------------------------


def _share(records: Iterable[Mapping[str, Any]], rank: int, world_size: int) -> Any:
    """The share of this process: indices of records; for a stream, the records with their indices."""
    rank %= world_size
    if hasattr(records, "num_shards") and not hasattr(records, "__len__"):  # a stream of `datasets`
        split = require("datasets.distributed", "train").split_dataset_by_node
        return _Stream(split(records, rank=rank, world_size=world_size))  # it shares out its files to workers itself
    if hasattr(records, "__len__"):
        count = len(records)
        return range(count * rank // world_size, count * (rank + 1) // world_size)
    return _Stream(records, rank, world_size)


class _Stream(torch.utils.data.IterableDataset):
    """Records that come one after another, each with its index."""

    def __init__(self, records: Iterable[Mapping[str, Any]], rank: int | None = None, world_size: int = 1):
        self.records, self.rank, self.world_size = records, rank, world_size

    def __iter__(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        numbered = enumerate(self.records)
        if self.rank is None:
            return numbered
        worker = torch.utils.data.get_worker_info()
        place, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return islice(numbered, self.rank * count + place, None, self.world_size * count)


class _Media:
    """The media of records that must be encoded."""

    def __init__(self, records, processor, folder, names, media_root, on_error):
        if on_error not in ("error", "skip"):
            raise ValueError(f'on_error must be "error" or "skip", not {on_error!r}.')
        self.records, self.processor, self.media_root, self.on_error = records, processor, media_root, on_error
        self.indexes = {name: Index(Path(folder, name)) for name in names}
        self.contents = Contents(*self.indexes.values())
        self.seen = _Seen()
        self.steady: set[str] = set()

    def __call__(self, place: int | tuple[int, Mapping[str, Any]]) -> tuple[list, int]:
        """The media of a sample that must be encoded, `[(modality, hash, model inputs of the medium alone, entry of its
        file)]`, and how many could not be read. For a stream, the index comes with its record."""
        index, record = place if isinstance(place, tuple) else (place, None)
        try:
            record = self.records[index] if record is None else record
            chat, found, skipped = read_chat(index, record, self.processor, self.media_root).checked(), [], 0
        except (ValueError, OSError) as error:
            if self.on_error == "skip":
                return [], 1
            if isinstance(error, RecordError):  # it names the sample
                raise
            raise ValueError(f"Sample {index}: {error}") from error
        for name, sources in chat.media.items():
            for i, source in enumerate(sources) if name in self.indexes else ():
                try:
                    digest = self.contents(MODALITIES[name], source)
                    if (name, digest) in self.seen or digest in self.indexes[name]:
                        continue
                    inputs, _ = self.processor.process_media({name: [source]})
                except (ValueError, OSError) as error:
                    if self.on_error == "error":
                        raise located(f"{chat.where}: {name} {i}", error, f"{name} 0: ") from error
                    skipped += 1
                    continue
                if name not in self.steady:
                    self._check_steady(name, source, inputs)
                self.seen.add((name, digest))
                found.append((name, digest, inputs, self.contents.known(source)))
        return found, skipped

    def _check_steady(self, modality: str, source: Any, inputs: dict[str, torch.Tensor]) -> None:
        """Raises ValueError if media of a modality are prepared at random."""
        for draw in range(_DRAWS):
            with _seeded(draw):
                again, _ = self.processor.process_media({modality: [source]})
            if any(not torch.equal(again[key], inputs[key]) for key in inputs):
                raise ValueError(
                    f"Media of {modality!r} are prepared at random (augmentation), so their features differ each time "
                    "and cannot be stored. Switch augmentation off in the "
                    f"processor ({self.processor.modalities[modality].processor}), or train without a store."
                )
        self.steady.add(modality)


class _Seen(set):
    """The latest media. A forgotten medium that comes again is computed again, but counts once."""

    def add(self, one: Any) -> None:
        if len(self) >= MOST_REMEMBERED:
            self.clear()
        super().add(one)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Within, random numbers follow from `seed`; afterwards, the state is restored."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=()):
            set_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


# --- towers ----------------------------------------------------------------------------------------------------------


def _run(model: Any, media: Iterable[tuple[list, int]], writers: dict[str, ShardWriter], batch_size: int) -> int:
    """Encodes the media from `_Media`, and returns how many media could not be read."""
    waiting: dict[tuple, list] = {}  # media of one size, the oldest first
    held, skipped, seen = 0, 0, _Seen()

    def encode(shape: tuple) -> None:
        nonlocal held
        batch = waiting.pop(shape)
        held -= sum(_bytes(inputs) for _, inputs, _ in batch)
        _encode(model, writers[shape[0]], shape[0], batch)

    for found, failed in media:
        skipped += failed
        for name, digest, inputs, files in found:
            if (name, digest) in seen:  # another worker had it, too
                continue
            seen.add((name, digest))
            shape = (name, *((key, tuple(value.shape)) for key, value in inputs.items()))
            waiting.setdefault(shape, []).append((digest, inputs, files))
            held += _bytes(inputs)
            if len(waiting[shape]) == batch_size:
                encode(shape)
            while held > _MOST_HELD and len(waiting) > 1:
                encode(next(iter(waiting)))
    for shape in [*waiting]:
        encode(shape)
    for writer in writers.values():
        writer.flush()
    return skipped


def _bytes(inputs: dict[str, torch.Tensor]) -> int:
    return sum(value.nbytes for value in inputs.values())


@torch.no_grad()
def _encode(model: Any, writer: ShardWriter, modality: str, batch: list[tuple[str, dict, dict]]) -> None:
    device = next(model.tower(modality).parameters(), torch.empty(0)).device
    joined = {key: torch.cat([inputs[key] for _, inputs, _ in batch]).to(device) for key in batch[0][1]}
    sizes = {key: joined.pop(name) for key in SIZES if (name := f"{modality}_{key}") in joined}
    features, _ = model.encode(modality, joined)
    settings = model.config.modalities[modality]
    lengths = item_lengths(sizes or joined, settings.num_frames, settings.feature_length)
    flat, _ = Frames(features, sizes.get("feature_lengths")).by("feature")
    items = flat[0, 0].split([sum(item) for item in lengths])
    for (digest, _, files), own, frames in zip(batch, items, lengths, strict=True):
        if not torch.isfinite(own).all():
            where = next(iter(files), f"with the hash {digest}")
            raise ValueError(
                f"The tower of {modality!r} gives NaN or infinity for the medium {where}. Compute in another dtype "
                "(float32), or leave the medium out."
            )
        writer.add(digest, own, frames, files)


# --- loading towers without their language model -----------------------------------------------------------------------


class _NoLanguageModel(PreTrainedModel):
    """Replaces the language model: its weights have names that no checkpoint has."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.nothing = nn.Embedding(1, 1)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.nothing


class _TowersOnly(AnyModalityForCausalLM):
    _keys_to_ignore_on_load_unexpected = (r"^language_model\.",)
    _keys_to_ignore_on_load_missing = (r"^language_model\.",)

    def _build_language_model(self) -> PreTrainedModel:
        return _NoLanguageModel(self.config.text_config)

    def _check_placeholders(self) -> None:
        """There is no vocabulary to check."""


def load_towers(source: str | os.PathLike, **kwargs: Any) -> PreTrainedModel:
    """Loads a composite without its language model, which may be many times as large as the rest.

    Args:
        kwargs: of `from_pretrained`.
    """
    config = AnyModalityConfig.from_pretrained(source, **hub_kwargs(kwargs))
    if config.references:  # its parts are loaded one by one, each in full
        return AutoModelForCausalLM.from_pretrained(source, **kwargs)
    return _TowersOnly.from_pretrained(source, config=config, **kwargs)
