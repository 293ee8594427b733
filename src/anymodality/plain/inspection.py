"""Parts and modalities of a checkpoint, from its JSON files and the headers of its weight files."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from anymodality.plain.files import StoredTensor, read_json, shard_names, stored_tensors
from anymodality.plain.printing import size
from anymodality.plain.table import config_key, main_input_first, owner, part_names
from anymodality.plain.tables import columns


WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# Tokens per item, or None; and if they vary, the least and the most, or nothing.
Tokens = tuple[int | None, tuple[int, ...]]
# From a modality's name, the config as JSON, and the processor's row for it.
Count = Callable[[str, Mapping[str, Any], Mapping[str, Any]], Tokens]


@dataclass(frozen=True)
class PartInfo:
    """A child of the model.

    Args:
        name: as in the model: `image_tower`, `image_aligner`, `language_model`.
        type: the model type of its config; an aligner's name.
        source: Hub id or path that it was made from, if the config has it.
        revision: of the source, if the checkpoint is light and pins it.
        referenced: its weights (or most of them) are at the source, not in the checkpoint.
        parameters, bytes: those that the checkpoint itself stores, buffers included.
        dtypes: of its stored weights.
        memory: dtype -> bytes. A model in 4 bits has "nf4" or "fp4", which includes its scales.
        trained: whether it was trained since it was composed; None if unknown.
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
    """A modality: its placeholder, its parts, its tokens per item (None if they vary), and for varying tokens the least
    and the most (None if only the medium limits them)."""

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
    """The result of `inspect_folder`; `str()` of it is a table."""

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
        # A header does not tell parameters from buffers, such as the statistics of a batch norm.
        parts = [("part", "type", "numbers", "size", "dtype", "trained", "from")]
        for part in self.parts:
            where = (part.source or "") + (f" @ {part.revision[:12]}" if part.revision else "")
            parts.append(
                (
                    part.name,
                    part.type,
                    f"{part.parameters:,}",
                    size(part.bytes),
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
        head = f"{self.source}: {kind} {self.parameters:,} numbers (parameters and buffers), {size(self.bytes)}"
        return "\n".join([head, "", *columns(parts, right={2, 3}), "", *columns(modalities, right={2})])


def _dtypes(part: PartInfo) -> list[str]:
    """The dtypes of a part, with their sizes if there are several."""
    if len(part.memory) < 2:
        return part.dtypes
    return [f"{dtype} {size(part.memory[dtype])}" for dtype in sorted(part.memory)]


def inspect_folder(folder: str | Path, count: Count) -> Inspection:
    """Reads config.json, processor_config.json and the headers of the weight files.

    Args:
        count: gives the tokens of a modality if the files do not.

    Raises:
        OSError: there is no config.json.
        ValueError: it is another model, damaged, or lacks files of weights.
    """
    place = Path(folder)
    config = read_config(place / "config.json", folder)
    names = shard_names(place / INDEX) if (place / INDEX).is_file() else [WEIGHTS]
    if missing := [name for name in names if not (place / name).is_file()]:
        raise ValueError(f"{folder} lacks {', '.join(missing)}.")
    tensors = (tensor for name in names for tensor in stored_tensors(place / name))
    return inspection(str(folder), config, tensors, read_rows(place / "processor_config.json"), count)


def read_config(file: str | Path, source: str | Path) -> dict[str, Any]:
    """The config of a composite, as JSON.

    Raises:
        ValueError: it is another model's, or does not name its parts.
    """
    config = read_json(file)
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "anymodality":
        raise ValueError(f"{source} is not a transformers-anymodality checkpoint (model_type {kind!r}).")
    rows = config.get("modalities")
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise ValueError(f"{file}: `modalities` must be a table of modalities.")
    for part in part_names(rows):
        own = config.get(config_key(part))
        if not isinstance(own, dict) or not isinstance(own.get("model_type"), str):
            raise ValueError(f"{file}: `{config_key(part)}` must be a config with a `model_type`.")
    return config


def read_rows(file: str | Path) -> dict[str, dict[str, Any]]:
    """The processor's row for each modality; empty without a processor."""
    rows = read_json(file).get("modalities", {}) if Path(file).is_file() else {}
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise ValueError(f"{file}: `modalities` must be a table of modalities.")
    return rows


def inspection(
    source: str,
    config: Mapping[str, Any],
    tensors: Iterable[StoredTensor],
    rows: Mapping[str, Mapping[str, Any]],
    count: Count,
) -> Inspection:
    """Inspects a composite's config as JSON, its tensors, and the processor's row for each modality. Raises ValueError for
    values of the wrong type."""
    parameters: Counter[str] = Counter()
    memory: dict[str, Counter[str]] = defaultdict(Counter)
    for name, dtype, numbers, length in tensors:
        part = name.partition(".")[0]
        parameters[part] += numbers
        memory[part][dtype] += length
    try:
        parts = [_part(name, config, parameters[name], memory[name]) for name in part_names(config["modalities"])]
        modalities = [_modality(name, config, rows.get(name, {}), count) for name in sorted(config["modalities"])]
    except (AttributeError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"The configs of {source} have values of the wrong type ({reason}).") from error
    return Inspection(source, parts, modalities)


def _part(name: str, config: Mapping[str, Any], parameters: int, memory: Mapping[str, int]) -> PartInfo:
    own, is_aligner, trained = config[config_key(name)], name.endswith("_aligner"), config.get("trained")
    reference = (config.get("references") or {}).get(name)
    source = own.get("_name_or_path") or None if reference is None else reference["id"]
    return PartInfo(
        name,
        own["model_type"].removesuffix("_aligner") if is_aligner else own["model_type"],
        source=None if is_aligner else source,
        revision=reference and reference["revision"],
        referenced=reference is not None,
        parameters=parameters,
        bytes=sum(memory.values()),
        dtypes=sorted(memory),
        trained=None if trained is None else name in trained,
        memory=dict(memory),
    )


def _modality(name: str, config: Mapping[str, Any], row: Mapping[str, Any], count: Count) -> ModalityInfo:
    one = config["modalities"][name]
    tokens, bounds, length = row.get("num_tokens"), (), one.get("feature_length") or row.get("feature_length")
    most = (row.get("options") or {}).get("max_tokens")
    if tokens is None and length is not None:
        tokens, bounds = count(name, config, row)
    elif tokens is None and most is not None:
        bounds = (1, most)
    parts = (f"{owner(config['modalities'], name, part)}_{part}" for part in ("tower", "aligner"))
    inputs = list(main_input_first(name, one.get("inputs") or {}))
    return ModalityInfo(name, row.get("token"), *parts, tokens, inputs, *bounds)
