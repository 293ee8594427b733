"""What a checkpoint holds, from its config and the headers of its weight files; weights are not loaded."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, is_offline_mode
from transformers import AutoConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from ..model.configuration import AnyModalityConfig
from ..utils.files import open_weights, read_json, shard_names
from ..utils.tables import columns
from ..utils.upstream import name_or_path


# Safetensors' names of types.
_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16} | (
    {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8}
)


@dataclass(frozen=True)
class PartInfo:
    """A child of the model.

    Args:
        name: as in the model: `image_tower`, `image_aligner`, `language_model`.
        type: the model type of its config; an aligner's name.
        source: Hub id or path that it was made from, as far as the config knows.
        revision: of the source, where the checkpoint is light and pins it.
        referenced: its weights (or most of them) lie at the source, not in the checkpoint.
        parameters, bytes: what the checkpoint itself stores of it.
        dtypes: of its stored weights.
        trained: whether it was trained since it was composed; None where no one said.
    """

    name: str
    type: str
    source: str | None = None
    revision: str | None = None
    referenced: bool = False
    parameters: int = 0
    bytes: int = 0
    dtypes: list[str] = field(default_factory=list)
    trained: bool | None = None


@dataclass(frozen=True)
class ModalityInfo:
    """A modality: its placeholder, which parts it goes through, and its tokens per medium (None: as many as it needs)."""

    name: str
    token: str | None
    tower: str
    aligner: str
    tokens: int | None
    inputs: list[str]


@dataclass(frozen=True)
class Inspection:
    """What `inspect_checkpoint` found; `str()` of it is a table."""

    source: str
    parts: list[PartInfo]
    modalities: list[ModalityInfo]

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts)

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)

    @property
    def light(self) -> bool:
        return any(part.referenced for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        totals = {"parameters": self.parameters, "bytes": self.bytes, "light": self.light}
        return {"source": self.source, **totals, **{key: asdict(self)[key] for key in ("parts", "modalities")}}

    def __str__(self) -> str:
        parts = [("part", "type", "parameters", "dtype", "trained", "from")]
        for part in self.parts:
            where = (part.source or "") + (f" @ {part.revision[:12]}" if part.revision else "")
            parts.append(
                (
                    part.name,
                    part.type,
                    f"{part.parameters:,}",
                    ", ".join(part.dtypes),
                    {True: "yes", False: "no", None: ""}[part.trained],
                    f"{where} (kept there)" if part.referenced else where,
                )
            )
        modalities = [("modality", "placeholder", "tokens", "tower", "aligner", "inputs")]
        for modality in self.modalities:
            tokens = "varies" if modality.tokens is None else str(modality.tokens)
            names = (modality.tower, modality.aligner, ", ".join(modality.inputs))
            modalities.append((modality.name, modality.token or "", tokens, *names))
        kind = "light checkpoint, stores" if self.light else "checkpoint of"
        head = f"{self.source}: {kind} {self.parameters:,} parameters, {self.bytes / 1e6:,.1f} MB"
        return "\n".join([head, "", *columns(parts, right={2}), "", *columns(modalities, right={2})])


def inspect_checkpoint(source: str | Path, *, revision: str | None = None, token: str | None = None) -> Inspection:
    """Reads the config and the headers of the weight files; of a repository on the Hub, no more than these.

    Args:
        source: folder or Hub id.
        revision, token: for the Hub.

    Raises:
        OSError: there is no such checkpoint, or it has no safetensors.
        ValueError: it is another model, damaged, or a folder that lacks files of weights.
    """
    source, hub = str(source), {"revision": revision, "token": token}
    config = AutoConfig.from_pretrained(source, **hub)
    if not isinstance(config, AnyModalityConfig):
        raise ValueError(f"{source} is not a transformers-anymodality checkpoint (model_type {config.model_type!r}).")
    stored: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for name, dtype, count in _tensors(source, hub):
        stored[name.partition(".")[0]].append((dtype, count))
    parts = [_part(name, config, stored[name]) for name in config.part_names]
    return Inspection(source, parts, _modalities(config, _placeholders(source, hub)))


def inspect_model(model: Any, processor: Any = None, source: str | None = None) -> Inspection:
    """The same of a model in memory; its weights may be on the meta device."""
    types = {dtype: name for name, dtype in _TYPES.items()}
    stored: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for name, tensor in model.state_dict().items():
        if name not in model.all_tied_weights_keys:
            stored[name.partition(".")[0]].append((types.get(tensor.dtype, "I64"), tensor.numel()))
    tokens = {} if processor is None else {name: own.token for name, own in processor.modalities.items()}
    parts = [_part(name, model.config, stored[name]) for name in model.config.part_names]
    return Inspection(model.name_or_path if source is None else source, parts, _modalities(model.config, tokens))


def part_config(config: AnyModalityConfig, part: str) -> Any:
    """The config of a part by the name of the child."""
    if part == "language_model":
        return config.text_config
    return getattr(config, f"{part.removesuffix('_tower')}_config")


def _part(name: str, config: AnyModalityConfig, stored: list[tuple[str, int]]) -> PartInfo:
    own, reference = part_config(config, name), (config.references or {}).get(name)
    is_aligner = name.endswith("_aligner")
    source = name_or_path(own) or None if reference is None else reference["id"]
    sizes = {dtype: sum(count for other, count in stored if other == dtype) for dtype, _ in stored}
    return PartInfo(
        name,
        own.model_type.removesuffix("_aligner") if is_aligner else own.model_type,
        source=None if is_aligner else source,
        revision=reference and reference["revision"],
        referenced=reference is not None,
        parameters=sum(sizes.values()),
        bytes=sum(count * getattr(_TYPES.get(dtype), "itemsize", 1) for dtype, count in sizes.items()),
        dtypes=sorted(str(_TYPES.get(dtype, dtype)).removeprefix("torch.") for dtype in sizes),
        trained=None if config.trained is None else name in config.trained,
    )


def _modalities(config: AnyModalityConfig, placeholders: dict[str, str]) -> list[ModalityInfo]:
    found = []
    for name, one in config.modalities.items():
        tokens = None
        if one.feature_length is not None:
            tokens = config.aligner_config(name).count_tokens(one.num_frames, one.feature_length)
        parts = (f"{one.tower}_tower", f"{one.aligner}_aligner")
        found.append(ModalityInfo(name, placeholders.get(name), *parts, tokens, list(one.inputs)))
    return found


def _placeholders(source: str, hub: dict[str, Any]) -> dict[str, str]:
    """The placeholder tokens by modality, if there is a processor."""
    file = cached_file(source, "processor_config.json", _raise_exceptions_for_missing_entries=False, **hub)
    rows = {} if file is None else read_json(file).get("modalities", {})
    return {name: row["token"] for name, row in rows.items()}


# --- weights -------------------------------------------------------------------------------------------------------


def _tensors(source: str, hub: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Name, dtype and count of numbers of every stored tensor."""
    files = _local_files(source, hub["revision"])
    if files is None:
        for found in HfApi().get_safetensors_metadata(source, **hub).files_metadata.values():
            yield from ((name, info.dtype, info.parameter_count) for name, info in found.tensors.items())
    for file in files or ():
        with open_weights(file) as weights:
            for name in weights.keys():
                found = weights.get_slice(name)
                yield name, found.get_dtype(), math.prod(found.get_shape())


def _local_files(source: str, revision: str | None) -> list[str] | None:
    """The weight files on this machine; None if they are on the Hub alone."""
    here = {"revision": revision, "local_files_only": True, "_raise_exceptions_for_missing_entries": False}
    index = cached_file(source, SAFE_WEIGHTS_INDEX_NAME, **here)
    names = [SAFE_WEIGHTS_NAME] if index is None else shard_names(index)
    files = {name: cached_file(source, name, **here) for name in names}
    missing = [name for name, file in files.items() if file is None]
    if missing and Path(source).is_dir():
        raise ValueError(f"{source} lacks {', '.join(missing)}.")
    if missing and is_offline_mode():
        raise FileNotFoundError(f"The weights of {source} are not on this machine, and it is offline.")
    return None if missing else list(files.values())
