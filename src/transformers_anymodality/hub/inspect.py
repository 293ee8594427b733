"""Lists the parts of a checkpoint or a model. The weights of a checkpoint are not loaded."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, is_offline_mode
from transformers.utils import cached_file

from anymodality.plain.files import DTYPES, StoredTensor, shard_names, stored_tensors
from anymodality.plain.inspection import (
    INDEX,
    WEIGHTS,
    Inspection,
    Tokens,
    inspect_folder,
    inspection,
    read_config,
    read_rows,
)
from anymodality.plain.table import config_key, owner

from ..modalities import MODALITIES
from ..model.configuration import as_config
from ..model.quantization import four_bit_bytes
from ..utils.hub import check_source


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
    if Path(source).is_dir():
        return inspect_folder(source, count_tokens)
    check_source(source, **hub)
    config = read_config(str(cached_file(source, "config.json", **hub)), source)
    rows = cached_file(source, "processor_config.json", _raise_exceptions_for_missing_entries=False, **hub)
    return inspection(source, config, _stored(source, hub), {} if rows is None else read_rows(rows), count_tokens)


def inspect_model(model: Any, processor: Any = None, source: str | None = None) -> Inspection:
    """As `inspect_checkpoint`, for a model in memory; its weights may be on the meta device."""
    tensors = (
        _tensor(*item)
        for item in model.state_dict(keep_vars=True).items()
        if item[0] not in model.all_tied_weights_keys
    )
    rows = {} if processor is None else {name: own.to_dict() for name, own in processor.modalities.items()}
    name = model.name_or_path if source is None else source
    return inspection(name, model.config.to_dict(), tensors, rows, count_tokens)


def count_tokens(name: str, config: Mapping[str, Any], row: Mapping[str, Any]) -> Tokens:
    """Tokens of a modality, by its aligner's config and its spec: per item; or the least and the most, if items are cut.

    Args:
        config: config of the composite, as JSON.
        row: the modality's entry in the processor's config.

    Raises:
        ValueError: the aligner's config is invalid.
    """
    one, key = config["modalities"][name], config_key(f"{owner(config['modalities'], name, 'aligner')}_aligner")
    aligner, frames = as_config(key, config[key]), one.get("num_frames", 1)
    length, options = one.get("feature_length") or row.get("feature_length"), row.get("options") or {}
    if one.get("feature_length") is not None and frames is not None:
        return aligner.count_tokens(frames, length), ()
    most = MODALITIES[name].most_frames(options) if name in MODALITIES else None
    if most is None:
        return None, ()
    return None, tuple(
        aligner.count_item_tokens(item) for item in ([1 if row.get("trimmed") else length], [length] * most)
    )


def _tensor(name: str, tensor: torch.Tensor) -> StoredTensor:
    """A weight in memory. A weight that bitsandbytes will quantise counts as quantised."""
    if type(tensor).__name__ == "Params4bit" and tensor.is_meta:
        return name, tensor.quant_type, tensor.numel(), four_bit_bytes(tensor)
    return name, str(tensor.dtype).removeprefix("torch."), tensor.numel(), tensor.nbytes


def _stored(source: str, hub: dict[str, Any]) -> Iterator[StoredTensor]:
    """Tensors of a checkpoint on the Hub, from its cached files or from fetched headers."""
    files = _local_files(source, hub["revision"])
    if files is None:
        for found in HfApi().get_safetensors_metadata(source, **hub).files_metadata.values():
            for name, info in found.tensors.items():
                yield name, DTYPES[info.dtype][0], info.parameter_count, info.data_offsets[1] - info.data_offsets[0]
    for file in files or ():
        yield from stored_tensors(file)


def _local_files(source: str, revision: str | None) -> list[str] | None:
    """The weight files on this machine; None if they are on the Hub alone."""
    here = {"revision": revision, "local_files_only": True, "_raise_exceptions_for_missing_entries": False}
    index = cached_file(source, INDEX, **here)
    names = [WEIGHTS] if index is None else shard_names(index)
    files = [cached_file(source, name, **here) for name in names]
    if None not in files:
        return files
    if is_offline_mode():
        raise FileNotFoundError(f"The weights of {source} are not on this machine, and it is offline.")
    return None
