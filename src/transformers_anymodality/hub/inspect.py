"""Lists a checkpoint's parts, from its config and the headers of its weight files. Weights are not loaded."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, is_offline_mode
from transformers import AutoConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from ..modalities import MODALITIES
from ..model.configuration import AnyModalityConfig
from ..model.quantization import four_bit_bytes
from ..utils.files import open_weights, read_json, shard_names
from ..utils.tables import columns
from ..utils.upstream import str_to_torch_dtype


# Name, dtype (or its name), how many parameters, how many bytes.
Tensor = tuple[str, Any, int, int]


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
        memory: dtype -> bytes. A model that would be loaded in 4 bits has "nf4" or "fp4" with what scales it.
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
    memory: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ModalityInfo:
    """A modality: its placeholder, which parts it goes through, its tokens per item (None: it varies), and where
    these follow the content, the least and the most (None where only the medium bounds them)."""

    name: str
    token: str | None
    tower: str
    aligner: str
    tokens: int | None
    inputs: list[str]
    least: int | None = None
    most: int | None = None


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
        return {"source": self.source, **totals, **asdict(self)}

    def __str__(self) -> str:
        parts = [("part", "type", "parameters", "MB", "dtype", "trained", "from")]
        for part in self.parts:
            where = (part.source or "") + (f" @ {part.revision[:12]}" if part.revision else "")
            parts.append(
                (
                    part.name,
                    part.type,
                    f"{part.parameters:,}",
                    f"{part.bytes / 1e6:,.1f}",
                    ", ".join(_dtypes(part)),
                    {True: "yes", False: "no", None: ""}[part.trained],
                    f"{where} (kept there)" if part.referenced else where,
                )
            )
        modalities = [("modality", "placeholder", "tokens", "tower", "aligner", "inputs")]
        for modality in self.modalities:
            tokens = "varies" if modality.tokens is None else str(modality.tokens)
            if modality.least is not None:
                tokens = f"{modality.least} to {modality.most}"
            names = (modality.tower, modality.aligner, ", ".join(modality.inputs))
            modalities.append((modality.name, modality.token or "", tokens, *names))
        kind = "light checkpoint, stores" if self.light else "checkpoint of"
        head = f"{self.source}: {kind} {self.parameters:,} parameters, {self.bytes / 1e6:,.1f} MB"
        return "\n".join([head, "", *columns(parts, right={2, 3}), "", *columns(modalities, right={2})])


def _dtypes(part: PartInfo) -> list[str]:
    """Those of a part, with their megabytes where there are several."""
    if len(part.memory) < 2:
        return part.dtypes
    return [f"{dtype} {part.memory[dtype] / 1e6:,.1f}" for dtype in sorted(part.memory)]


def inspect_checkpoint(source: str | Path, *, revision: str | None = None, token: str | None = None) -> Inspection:
    """Reads the config and the headers of the weight files; from the Hub, only these are fetched.

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
    return _inspection(source, config, _stored(source, hub), _rows(source, hub))


def inspect_model(model: Any, processor: Any = None, source: str | None = None) -> Inspection:
    """As `inspect_checkpoint`, for a model in memory; its weights may be on the meta device."""
    tensors = (
        _tensor(*item)
        for item in model.state_dict(keep_vars=True).items()
        if item[0] not in model.all_tied_weights_keys
    )
    rows = {} if processor is None else {name: own.to_dict() for name, own in processor.modalities.items()}
    return _inspection(model.name_or_path if source is None else source, model.config, tensors, rows)


def _tensor(name: str, tensor: torch.Tensor) -> Tensor:
    """A weight in memory. One that bitsandbytes has yet to quantise counts as quantised."""
    if type(tensor).__name__ == "Params4bit" and tensor.is_meta:
        return name, tensor.quant_type, tensor.numel(), four_bit_bytes(tensor)
    return name, tensor.dtype, tensor.numel(), tensor.nbytes


def _inspection(
    source: str, config: AnyModalityConfig, tensors: Iterable[Tensor], rows: dict[str, dict[str, Any]]
) -> Inspection:
    parameters: Counter[str] = Counter()
    memory: dict[str, Counter[str]] = defaultdict(Counter)
    for name, dtype, count, size in tensors:
        part = name.partition(".")[0]
        parameters[part] += count
        memory[part][str(dtype).removeprefix("torch.")] += size
    parts = [_part(name, config, parameters[name], memory[name]) for name in config.part_names]
    return Inspection(source, parts, _modalities(config, rows))


def _part(name: str, config: AnyModalityConfig, parameters: int, memory: Mapping[str, int]) -> PartInfo:
    own = config.text_config if name == "language_model" else getattr(config, f"{name.removesuffix('_tower')}_config")
    reference, is_aligner = (config.references or {}).get(name), name.endswith("_aligner")
    source = own.name_or_path or None if reference is None else reference["id"]
    return PartInfo(
        name,
        own.model_type.removesuffix("_aligner") if is_aligner else own.model_type,
        source=None if is_aligner else source,
        revision=reference and reference["revision"],
        referenced=reference is not None,
        parameters=parameters,
        bytes=sum(memory.values()),
        dtypes=sorted(memory),
        trained=None if config.trained is None else name in config.trained,
        memory=dict(memory),
    )


def _modalities(config: AnyModalityConfig, rows: dict[str, dict[str, Any]]) -> list[ModalityInfo]:
    found = []
    for name, one in config.modalities.items():
        row, aligner, tokens, bounds = rows.get(name, {}), config.aligner_config(name), None, ()
        length = one.feature_length or row.get("feature_length")
        if one.feature_length is not None and one.num_frames is not None:
            tokens = aligner.count_tokens(one.num_frames, one.feature_length)
        elif length is not None and name in MODALITIES:
            most = MODALITIES[name].most_frames(row.get("options", {}))
            least = aligner.count_item_tokens([1 if row.get("trimmed") else length])
            bounds = () if most is None else (least, aligner.count_item_tokens([length] * most))
        elif (most := row.get("options", {}).get("max_tokens")) is not None:
            bounds = (1, most)
        parts = (f"{one.tower}_tower", f"{one.aligner}_aligner")
        found.append(ModalityInfo(name, row.get("token"), *parts, tokens, list(one.inputs), *bounds))
    return found


def _rows(source: str, hub: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The processor's entry for each modality, if there is a processor."""
    file = cached_file(source, "processor_config.json", _raise_exceptions_for_missing_entries=False, **hub)
    return {} if file is None else read_json(file).get("modalities", {})


# --- weights -------------------------------------------------------------------------------------------------------


def _stored(source: str, hub: dict[str, Any]) -> Iterator[Tensor]:
    files = _local_files(source, hub["revision"])
    if files is None:
        for found in HfApi().get_safetensors_metadata(source, **hub).files_metadata.values():
            for name, info in found.tensors.items():
                yield _stored_tensor(name, info.dtype, info.parameter_count)
    for file in files or ():
        with open_weights(file) as weights:
            for name in weights.keys():
                found = weights.get_slice(name)
                yield _stored_tensor(name, found.get_dtype(), math.prod(found.get_shape()))


def _stored_tensor(name: str, dtype: str, count: int) -> Tensor:
    """A tensor's facts, from safetensors' name of its dtype, which torch may lack."""
    known = str_to_torch_dtype.get(dtype, dtype)
    return name, known, count, count * getattr(known, "itemsize", 1)


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
