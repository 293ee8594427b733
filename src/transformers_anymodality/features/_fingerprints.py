"""What a feature depends on: the content of a medium, a tower and how it is read, and the preparation of media."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..modalities import MODALITIES, MediaError, ModalitySpec
from ..modalities._arrays import to_numpy
from ..modalities._source import TOLD, describe, is_array, open_source, told
from ..modalities._wfdb import files_of
from ..towers import compute_dtype
from ..utils.tensors import tensors_hash
from ._index import Index


# Fields of a config or a processor that do not change the computation.
_ASIDE = (
    *("_name_or_path", "architectures", "auto_map", "dtype", "id2label", "label2id", "output_attentions"),
    *("output_hidden_states", "problem_type", "processor_class", "return_dict", "torch_dtype", "transformers_version"),
    "use_cache",
)
# Files, and media of a build, that a process remembers: some 200 MB. Forgotten ones cost time when they come again.
MOST_REMEMBERED = 2**19
# Dtypes in which a checkpoint's tower may be loaded and still count as the same.
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


# --- media -----------------------------------------------------------------------------------------------------------


class Contents:
    """Hashes of media by their content, for a file by its bytes; nothing is decoded.

    Args:
        indexes: indexes of stores, which know files that were hashed before; changed files are hashed again.
    """

    def __init__(self, *indexes: Index):
        self.indexes = indexes
        self.files: dict[str, list] = {}  # path -> `[mtime in ns, size, hash]` of files asked for last

    def __call__(self, spec: ModalitySpec, source: Any) -> str:
        """32 hexadecimal digits.

        Raises:
            MediaError: a file does not exist, or a medium's content cannot be hashed without decoding it.
        """
        if _is_encoded(spec, source):
            return self._encoded(source)
        digest = _hash()
        self._add(digest, spec, source)
        return digest.hexdigest()

    def known(self, source: Any) -> dict[str, list]:
        """The entry of a source in `files`, for other processes."""
        path = path_of(source)
        found = None if path is None else self._known(path)
        return {} if found is None else {path: found}

    def _known(self, path: str) -> list | None:
        found = self.files.get(path)
        if found is None and (found := next(filter(None, (index.file(path) for index in self.indexes)), None)):
            self._remember(path, found)
        return found

    def _remember(self, path: str, entry: list) -> None:
        if len(self.files) >= MOST_REMEMBERED:
            self.files.clear()
        self.files[path] = entry

    def _encoded(self, source: Any) -> str:
        place = source.tell() if hasattr(source, "tell") else None
        opened = open_source(source)
        if place is not None:
            source.seek(place)
        if isinstance(opened, Path):
            content = "".join(self._file(file) for file in files_of(opened))
        else:
            content = _hash(opened.getbuffer()).hexdigest()
        said = told(source)
        more = said or len(content) > 32
        return _hash(f"{content} {sorted(said.items())}".encode()).hexdigest() if more else content

    def _file(self, path: Path) -> str:
        status, name = path.stat(), os.path.abspath(path)
        known = self._known(name)
        if known is None or known[:2] != [status.st_mtime_ns, status.st_size]:
            with path.open("rb") as file:
                known = [status.st_mtime_ns, status.st_size, hashlib.file_digest(file, _hash).hexdigest()]
            self._remember(name, known)
        return known[2]

    def _add(self, digest: Any, spec: ModalitySpec, source: Any) -> None:
        if isinstance(source, str) and spec.medium == "text":
            digest.update(f"text {source}".encode())
        elif source is None or isinstance(source, (bool, int, float)):
            digest.update(f"number {source!r}".encode())
        elif hasattr(source, "getexif"):  # a PIL image
            shown = (source.mode, source.size, source.getexif().get(0x0112), source.info.get("transparency"))
            digest.update(f"image {shown} {source.getpalette()}".encode() + source.tobytes())
        elif is_array(source):
            array = np.ascontiguousarray(to_numpy(source, describe(source)))
            digest.update(f"array {array.dtype} {array.shape}".encode() + array.tobytes())
        elif isinstance(source, (list, tuple)):
            digest.update(f"list {len(source)}".encode())
            for entry in source:
                self._add(digest, spec, entry)
        elif isinstance(source, Mapping) and not _is_encoded(spec, source):
            for key in sorted(source):
                digest.update(f"key {key}".encode())
                if key in TOLD:
                    digest.update(repr(source[key]).encode())
                else:
                    self._add(digest, spec, source[key])
        elif hasattr(source, "get_all_samples") or hasattr(source, "get_frames_played_at"):
            raise MediaError(
                f"{describe(source)} is decoded already, so its file is unknown: give the file instead (load "
                "data sets by `data.load`, or with `decode=False`)."
            )
        else:
            digest.update(f"file {self._encoded(source)}".encode())


def _hash(data: Any = b"") -> Any:
    return hashlib.blake2b(data, digest_size=16)


def _is_encoded(spec: ModalitySpec, source: Any) -> bool:
    """Whether a source is a file, its bytes, or a reference to them."""
    if isinstance(source, str):
        return spec.medium != "text"
    if isinstance(source, Mapping):
        return bool({"base64", "bytes", "path"} & source.keys())
    return isinstance(source, (Path, bytes, bytearray, memoryview)) or hasattr(source, "read")


def path_of(source: Any) -> str | None:
    """The absolute path of a medium that is a file."""
    if isinstance(source, Mapping) and source.get("bytes") is None:
        source = source.get("path")
    return os.path.abspath(os.path.expanduser(source)) if isinstance(source, (str, Path)) else None


# --- towers and preprocessing ----------------------------------------------------------------------------------------


def tower_fingerprint(model: Any, modality: str, dtypes: Iterable[torch.dtype] = ()) -> dict[str, Any]:
    """What the features of a modality depend on in the model: weights (a hash in the tower's own dtype, and one in each of
    `dtypes`), config, and how the tower is read."""
    tower, settings = model.tower(modality), model.config.modalities[modality]
    reading = ("inputs", "per_frame", "select_layer", "select_feature", "num_frames")
    # Few towers need these. Stores of the others, which do not name them, stay valid.
    rare = ("side_by_side", "marks_padding", "packed", "channels_first")
    reading += tuple(name for name in rare if getattr(settings, name) != getattr(type(settings), name))
    weighed = dict.fromkeys((compute_dtype(tower), *dtypes))
    return {
        "weights": {str(dtype).removeprefix("torch."): _weights(tower, dtype) for dtype in weighed},
        "config": plain(tower.config.to_dict()),
        "reading": plain({key: getattr(settings, key) for key in reading}),
    }


@torch.no_grad()
def _weights(tower: nn.Module, dtype: torch.dtype) -> str:
    state = sorted(tower.state_dict().items())
    return tensors_hash(((name, t.to(dtype) if t.is_floating_point() else t) for name, t in state), _hash())


def preprocessing_fingerprint(processor: Any, modality: str) -> dict[str, Any]:
    """What the features of a modality depend on in the processor: the sub-processor and the options of reading."""
    own, part = processor.modalities[modality], processor.sub_processor(modality)
    settings = _tokenizer(part) if isinstance(part, PreTrainedTokenizerBase) else part.to_dict()
    given = {"class": type(part).__name__.removesuffix("Fast"), "spec": type(MODALITIES[modality]).__name__}
    return plain({**settings, **given, "options": own.options, "inputs": own.inputs})


def _tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    if not tokenizer.is_fast:
        return {"vocabulary": dict(sorted(tokenizer.get_vocab().items()))}
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return {key: value for key, value in state.items() if key not in ("padding", "truncation")}


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that affect the computation, as JSON; long ones as a hash."""
    kept = {key: value for key, value in settings.items() if key not in _ASIDE and value is not None}
    kept = json.loads(json.dumps(kept, sort_keys=True, default=_as_json))
    return {key: value if len(str(value)) <= 2000 else _hashed(value) for key, value in kept.items()}


def _as_json(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _hashed(value: Any) -> str:
    return _hash(json.dumps(value, sort_keys=True).encode()).hexdigest()


# --- what differs --------------------------------------------------------------------------------------------------------


def difference(stored: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The differences between the fingerprints in a store (`stored`) and the current ones (`now`), or "". `now` may have
    `tower` (of `tower_fingerprint`), `preprocessing` and `dtype`."""
    now = {**stored, **now}
    before, tower = stored["tower"], now["tower"]
    if named := _changes(before["config"], tower["config"]):
        return f"its tower's config has other {named}"
    if named := _changes(before["reading"], tower["reading"]):
        return f"its tower is read with other {named}"
    dtype, weights = next(iter(tower["weights"].items()))  # the tower's own dtype
    if before["weights"].get(dtype) != weights:
        return "its tower has other weights"
    if named := _changes(stored["preprocessing"], now["preprocessing"]):
        return f"media were prepared in another way: {named}"
    return "" if stored["dtype"] == now["dtype"] else f"they are {stored['dtype']}, not {now['dtype']}"


def _changes(stored: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The names of settings that differ, or ""."""
    names = sorted(key for key in {*stored, *now} if stored.get(key) != now.get(key))
    shown = [f"{name} ({stored.get(name)!r:.40} then, {now.get(name)!r:.40} now)" for name in names[:3]]
    return ", ".join(shown) + (", ..." if len(names) > 3 else "")
