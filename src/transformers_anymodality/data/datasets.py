"""Files, shards and data sets of the Hub: as single records, as `datasets` of chats, and as mixtures of these."""

import glob
import os
import re
from codecs import BOM_UTF8
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ..modalities import MODALITIES
from ..processing.chat import parts_of
from ..utils.imports import require
from .parsing import explain_shard, parse
from .records import modality_of_field, name_of, normalize, origin


_BUILDERS = {
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".tar": "webdataset",
}
# Bytes in the name of an Arrow type, which JSON cannot hold.
_BYTES = re.compile(r": (large_)?binary\b")


def load(
    source: Any, *, media_root: str | Path | None = None, streaming: bool = False, split: str = "train", **kwargs
) -> Any:
    """A data set of chats, for Trainer and collator.

    Args:
        source: file, pattern (`"shards/*.tar"`) or list of files: JSON, JSONL, Parquet, Arrow, WebDataset shards; a folder
            that `save_to_disk` wrote; a Hub id; or a data set of `datasets`.
        media_root: folder that relative paths are in.
        streaming: read while iterating, instead of storing all of it on disk as Arrow.
        split, kwargs: of `datasets.load_dataset`.

    Returns:
        `Dataset`, or `IterableDataset` with `streaming`: `messages`, media columns named by their arguments, and all
        other columns. Media are not decoded: the collator does that.
    """
    loaded = load_raw(source, streaming=streaming, split=split, **kwargs)
    try:
        return _as_chats(loaded, media_root)
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} holds text that is not UTF-8 ({error}).") from error


def load_raw(source: Any, *, streaming: bool = False, split: str = "train", **kwargs) -> Any:
    """As `datasets` itself loads it, without decoding."""
    datasets = require("datasets", "train")
    if isinstance(source, (datasets.Dataset, datasets.IterableDataset)):
        return _undecoded(source)
    files = [os.path.expanduser(file) for file in ([source] if isinstance(source, (str, Path)) else source)]
    if not files:
        raise FileNotFoundError("There are no files to load: the list is empty.")
    builders = {_BUILDERS.get(Path(file).suffix.lower()) for file in files}
    if len(builders) > 1:
        raise ValueError(f"{len(files)} files are of several kinds: load each kind separately, then mix them.")
    (builder,) = builders
    if builder is None:
        if len(files) > 1:
            raise ValueError(f"{files[0]} is of an unknown kind: expected {', '.join(_BUILDERS)}.")
        if Path(files[0], "dataset_info.json").is_file():
            found = datasets.load_from_disk(files[0])
            return _undecoded(found.to_iterable_dataset() if streaming else found)
        return _undecoded(datasets.load_dataset(files[0], split=split, streaming=streaming, **kwargs))
    if missing := [name for name in files if "://" not in name and not glob.glob(name) and not Path(name).exists()]:
        raise FileNotFoundError(f"{missing[0]} does not exist.")
    try:
        found = datasets.load_dataset(builder, data_files={split: files}, split=split, streaming=streaming, **kwargs)
    except Exception as error:  # readers of formats may raise anything
        explain = {"json": _explain_json, "webdataset": explain_shard}.get(str(builder))
        for name in [one for one in files if explain is not None and Path(one).is_file()]:
            explain(name)
        first = origin(error)
        raise ValueError(f"{', '.join(files)} cannot be read ({type(first).__name__}: {first}).") from error
    return _undecoded(found)


def _explain_json(file: str) -> None:
    """Raises ValueError for the first line that is not JSON."""
    for _ in open_records(file):
        pass


def mixture(
    sources: Mapping[str, Any] | Sequence[Any],
    weights: Mapping[str, float] | Sequence[float] | None = None,
    *,
    media_root: str | Path | None = None,
    streaming: bool = False,
    seed: int = 0,
    stopping_strategy: str = "all_exhausted",
) -> Any:
    """One data set from several, sampled by their weights: `datasets.interleave_datasets` over chats.

    Half text, half images: `mixture({"text": a, "images": b}, {"text": 1, "images": 1})`.

    Args:
        sources: sources as in `load`, in a list or by name. With names, a column `source` holds each sample's.
        weights: shares, which need not sum to one; equal if left out.
        media_root, streaming: as in `load`.
        stopping_strategy: "all_exhausted" (until each sample came at least once), "first_exhausted", or another of
            `interleave_datasets`.
    """
    datasets = require("datasets", "train")
    named = sources if isinstance(sources, Mapping) else dict(enumerate(sources))
    weights = [1] * len(named) if weights is None else weights
    given = weights if isinstance(weights, Mapping) else dict(zip(named, weights, strict=False))
    shares = [float(given.get(name, -1)) for name in named]
    if len(weights) != len(named) or min(shares) < 0 or not sum(shares):
        raise ValueError(f"{len(named)} sources need one weight each, none negative and not all zero, not {weights}.")
    loaded = [
        _for_mixing(load(source, media_root=media_root, streaming=streaming), name if isinstance(name, str) else None)
        for name, source in named.items()
    ]
    return datasets.interleave_datasets(
        _aligned(loaded),
        probabilities=[share / sum(shares) for share in shares],
        seed=seed,
        stopping_strategy=stopping_strategy,
    )


def at_speeds(chats: Any, speeds: Sequence[float]) -> Any:
    """Speed perturbation (Ko et al. 2015): each chat with audio appears once for each of `speeds`, such as (0.9, 1.0, 1.1),
    with all its audio at that speed; other chats appear once. Use it for training data only, not for evaluation.

    Args:
        chats: from `load` or `mixture`.
        speeds: from 0.5 to 2.
    """
    if not speeds or not all(0.5 <= speed <= 2 for speed in speeds):
        raise ValueError(f"Speeds must be from 0.5 to 2, not {list(speeds)}.")
    return chats.map(partial(_at_speeds, speeds=speeds), batched=True, batch_size=100, features=chats.features)


def _at_speeds(columns: dict[str, list[Any]], speeds: Sequence[float]) -> dict[str, list[Any]]:
    made: dict[str, list[Any]] = {name: [] for name in columns}
    for values in zip(*columns.values(), strict=True):
        row = dict(zip(columns, values, strict=True))
        for speed in speeds if any(map(_is_sound, parts_of(row["messages"]))) else (1.0,):
            for name, value in row.items():
                made[name].append(_faster(value, speed) if name == "messages" else value)
    return made


def _is_sound(part: Mapping[str, Any]) -> bool:
    return part.get("type") in MODALITIES and MODALITIES[part["type"]].medium == "audio"


def _faster(messages: list[dict[str, Any]], speed: float) -> list[dict[str, Any]]:
    return [
        {
            **message,
            "content": [
                {**part, "speed": speed} if isinstance(part, Mapping) and _is_sound(part) else part
                for part in message["content"]
            ],
        }
        if speed != 1 and isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


# --- records of a file -----------------------------------------------------------------------------------------------


class _Lines(Sequence):
    """Lines of JSON, parsed when needed. (JSON may hold other line ends than `\\n` unescaped.)"""

    def __init__(self, content: bytes):
        self.lines = [(i, line) for i, line in enumerate(content.split(b"\n"), 1) if line.strip()]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Any:
        number, line = self.lines[index]
        return parse(line, f"Line {number}")


def open_records(file: str | Path, split: str = "train") -> Sequence[Any]:
    """The records of a file. A line of JSONL that is not JSON raises ValueError when it is accessed.

    Args:
        file: JSON (a list, or an object with one list), JSONL, or a source that `datasets` reads (Parquet, WebDataset
            shards, a folder, a Hub id).
        split: split for sources that `datasets` reads.
    """
    path = Path(file).expanduser()
    if path.suffix not in (".json", ".jsonl"):
        return load_raw(str(file), split=split)
    content = path.read_bytes().removeprefix(BOM_UTF8)
    if path.suffix == ".jsonl":
        return _Lines(content)
    try:
        found = parse(content, str(file))
    except ValueError:
        lines = _Lines(content)
        with suppress(ValueError):
            if len(lines) > 1 and isinstance(lines[0], Mapping):
                return lines
        raise
    if isinstance(found, Mapping):
        lists = [value for value in found.values() if isinstance(value, list)]
        found = lists[0] if len(lists) == 1 else [found]
    if not isinstance(found, list):
        raise ValueError(f"{file} holds a {type(found).__name__}, expected a list of records.")
    return found


# --- columns -----------------------------------------------------------------------------------------------------------


def _undecoded(dataset: Any) -> Any:
    """Media as paths or bytes. (`decode` of `datasets` would leave JSON undecoded, too.)"""
    if dataset.features is None:
        return dataset
    features = require("datasets", "train").Features({name: _raw(one) for name, one in dataset.features.items()})
    return dataset if features == dataset.features else dataset.cast(features)


def _raw(feature: Any) -> Any:
    datasets = require("datasets", "train")
    if isinstance(feature, (datasets.Image, datasets.Audio, datasets.Video)):
        return type(feature)(decode=False)
    if isinstance(feature, datasets.List):
        return datasets.List(_raw(feature.feature), length=feature.length)
    if isinstance(feature, dict):
        return {name: _raw(one) for name, one in feature.items()}
    return feature


def _as_chats(dataset: Any, media_root: Any) -> Any:
    datasets = require("datasets", "train")
    if dataset.features is None:
        return dataset.map(partial(_normalized, media_root=media_root), with_indices=True)
    if "__key__" in dataset.features:
        features = _shard_features(dataset.features)
        row = partial(_row, media_root=media_root, columns=list(features))
        return dataset.map(row, with_indices=True, remove_columns=list(dataset.features), features=features)
    features, kept = _features(dataset.features)
    dataset = dataset.rename_columns({old: new for old, new in kept.items() if old != new})
    types = {name: dataset.features[name] for name in kept.values()}
    others = [name for name in dataset.features if name not in types]
    row = partial(_row, media_root=media_root, columns=list(features), kept=types)
    if isinstance(dataset, datasets.IterableDataset):
        both = datasets.Features({**features, **types})
        return dataset.map(row, with_indices=True, remove_columns=others, features=both)
    # Unchanged columns may hold many bytes, so they are neither read nor written again.
    chats = dataset.select_columns(others).map(row, with_indices=True, remove_columns=others, features=features)
    return datasets.concatenate_datasets([chats, dataset.select_columns(list(types))], axis=1) if types else chats


def _row(
    record: Mapping[str, Any], index: int, media_root: Any, columns: list[str], kept: Collection[str] = ()
) -> dict[str, Any]:
    made = _normalized({name: value for name, value in record.items() if name not in kept}, index, media_root)
    return {name: made.get(name) for name in columns}


def _normalized(record: Mapping[str, Any], index: int, media_root: Any) -> dict[str, Any]:
    try:
        return normalize(record, media_root=media_root)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name_of(index, record)}: {error}") from error


def _features(given: Mapping[str, Any]) -> tuple[Any, dict[str, str]]:
    """Types of the columns that `normalize` makes from records with these types; and the unchanged columns, with their
    new names."""
    datasets = require("datasets", "train")
    string = datasets.Value("string")
    made: dict[str, Any] = {}
    kept: dict[str, str] = {}
    for name, feature in given.items():
        argument = _argument(name)
        paths = feature in (string, datasets.List(string), datasets.List(datasets.List(string)))
        if name in ("messages", "conversations"):
            made["messages"] = datasets.List(datasets.Json())
        elif name == "tools":
            made[name] = datasets.Json()
        elif argument in _arguments() and paths:
            made[argument] = datasets.List(string) if feature == string else feature
        elif name != "system":
            kept[name] = argument
    if "messages" in given and _BYTES.search(str(datasets.Features(messages=given["messages"]).type)):
        made["messages"] = given["messages"]
    return datasets.Features(made), kept


def _shard_features(given: Mapping[str, Any]) -> Any:
    """Types of the columns that `normalize` makes from a shard's samples with these types."""
    datasets = require("datasets", "train")
    chat = given.get("json")
    made, kept = _features(chat) if isinstance(chat, dict) else ({}, {})
    types = {**made, **{new: chat[old] for old, new in kept.items()}}
    for field, feature in given.items():
        name = None if field in ("json", "txt") or field.startswith("__") else modality_of_field(field)
        if name is not None:
            types[MODALITIES[name].argument] = datasets.List(feature)
    types["messages"] = datasets.List(datasets.Json())
    return datasets.Features({"id": datasets.Value("string"), **types})


def _argument(column: str) -> str:
    """The argument name for a media column under any name; other columns keep their names."""
    return next((spec.argument for name, spec in MODALITIES.items() if column in (name, f"{name}s")), column)


def _arguments() -> set[str]:
    return {spec.argument for spec in MODALITIES.values()}


# --- mixing ------------------------------------------------------------------------------------------------------------


def _for_mixing(dataset: Any, source: str | None) -> Any:
    """Only the chat's columns, and the name of the source."""
    datasets = require("datasets", "train")
    if dataset.features is None:
        raise ValueError("A stream that does not tell its columns cannot be mixed: give `features` where it is made.")
    known = {"messages", "tools", "task", *_arguments()}
    dataset = dataset.select_columns([name for name in dataset.features if name in known])
    if source is None:
        return dataset
    features = datasets.Features({**dataset.features, "source": datasets.Value("string")})
    return dataset.map(partial(dict, source=source), features=features)


def _aligned(loaded: list[Any]) -> list[Any]:
    """Gives each media column one type: lists of paths, or of encoded files if any source has those."""
    datasets = require("datasets", "train")
    encoded = datasets.List({"bytes": datasets.Value("binary"), "path": datasets.Value("string")})
    for column in _arguments():
        types = [one.features[column] for one in loaded if column in one.features]
        if all(one == types[0] for one in types):
            continue
        for i, one in enumerate(loaded):
            if column in one.features and one.features[column] != encoded:
                features = datasets.Features({**one.features, column: encoded})
                loaded[i] = one.map(partial(_as_files, column=column), features=features)
    return loaded


def _as_files(record: Mapping[str, Any], column: str) -> dict[str, Any]:
    given = record[column]
    items = given if given is None or isinstance(given, list) else [given]
    files = items and [{"path": item, "bytes": None} if isinstance(item, str) else item for item in items]
    return {**record, column: files}
