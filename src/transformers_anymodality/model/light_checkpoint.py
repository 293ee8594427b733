"""Light checkpoints: parts that are as they came from the Hub are kept as references, and only the rest is stored.

`config.json` then has `references`: part -> where it came from (id, revision), a hash over its tensors, and which of
them grew by rows (token embeddings, for placeholders). `from_pretrained` loads each reference, checks the hash and
puts the stored tensors on top; the result is the same as that of a full checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from ..modalities import MODALITIES
from ..towers import load_tower
from ..utils.hub import FETCHING, hub_kwargs
from ..utils.tensors import tensors_hash
from ..utils.upstream import extract_commit_hash, get_checkpoint_shard_files


def source_of(source: Any, revision: str | None = None, **load: Any) -> dict[str, Any] | None:
    """Where a part is loaded from, pinned to a commit: `{"id", "revision"}`; None for what was not loaded by name."""
    if not isinstance(source, (str, os.PathLike)):
        return None
    source = os.fspath(source)
    file = cached_file(source, "config.json", revision=revision, **hub_kwargs(load))
    return {"id": source, "revision": extract_commit_hash(file, None) or revision}


def split(
    config: Any, part_sources: Mapping[str, dict[str, Any] | None], state: dict[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, dict[str, Any]]]:
    """What a light checkpoint stores.

    Args:
        config: of a composite.
        part_sources: where its parts came from.
        state: its state dict.

    Returns:
        The tensors that differ from their reference (grown embeddings by their new rows), and the references.

    Raises:
        ValueError: no part of the model came from anywhere.
    """
    sources = {part: source for part, source in part_sources.items() if source is not None}
    if not sources:
        raise ValueError(
            "A light checkpoint refers to parts on the Hub, but every part of this model was made here. Compose it "
            "from Hub ids, or save it in full (light=False)."
        )
    stored, references = dict(state), {}
    for part, source in sources.items():
        reference = _load_reference(config, part, source)
        grown, kept = [], {}
        for name, tensor in reference.items():
            key = f"{part}.{name}"
            if key not in state:
                continue
            ours = state[key].to("cpu")
            if ours.dtype == tensor.dtype and torch.equal(ours[: len(tensor)] if ours.ndim else ours, tensor):
                kept[name] = tensor
                if ours.shape == tensor.shape:
                    del stored[key]
                else:
                    stored[key] = ours[len(tensor) :].clone()
                    grown.append(name)
        if kept:
            references[part] = {
                **source,
                "sha256": tensors_hash(sorted(kept.items())),
                "tensors": len(kept),
                "grown": sorted(grown),
            }
            references[part]["kept"] = None if len(kept) == len(reference) else sorted(kept)
    return stored, references


def assemble(source: Any, config: Any, **hub: Any) -> dict[str, torch.Tensor]:
    """The whole state dict of a light checkpoint.

    Raises:
        OSError: a reference cannot be had; the message names it and the part.
        ValueError: it is not what it was when the checkpoint was saved.
    """
    stored, state = _stored(source, hub), {}
    for part, reference in config.references.items():
        tensors = _load_reference(config, part, reference, **hub_kwargs(hub, FETCHING))
        kept = reference["kept"] or list(tensors)
        missing = sorted(set(kept) - set(tensors))
        if missing or tensors_hash((name, tensors[name]) for name in sorted(kept)) != reference["sha256"]:
            raise ValueError(
                f"`{part}` of this light checkpoint refers to {_where(reference)}, which has changed since: its "
                f"weights hash differently{' or are missing: ' + ', '.join(missing[:3]) if missing else ''}. Restore "
                "it, or ask for a full checkpoint."
            )
        for name in kept:
            key = f"{part}.{name}"
            state[key] = torch.cat([tensors[name], stored.pop(key)]) if name in reference["grown"] else tensors[name]
    return {**state, **stored}


def _load_reference(config: Any, part: str, reference: dict[str, Any], **hub: Any) -> dict[str, torch.Tensor]:
    load = {"revision": reference["revision"], "dtype": reference["dtype"], **hub}
    load = {key: value for key, value in load.items() if value is not None}
    try:
        if part == "language_model":
            return AutoModelForCausalLM.from_pretrained(reference["id"], **load).state_dict()
        modality = part.removesuffix("_tower")
        return load_tower(reference["id"], MODALITIES[modality].medium, reference["select_layer"], **load).state_dict()
    except OSError as error:
        raise OSError(
            f"`{part}` of this light checkpoint is kept at {_where(reference)}, which cannot be had: {error}. Make it "
            "available (log in, go online, or download it), or ask for a full checkpoint."
        ) from error


def _where(reference: dict[str, Any]) -> str:
    return reference["id"] + (f" at revision {reference['revision']}" if reference["revision"] else "")


def _stored(source: Any, hub: dict[str, Any]) -> dict[str, torch.Tensor]:
    index = cached_file(source, SAFE_WEIGHTS_INDEX_NAME, _raise_exceptions_for_missing_entries=False, **hub)
    if index is None:
        return load_file(str(cached_file(source, SAFE_WEIGHTS_NAME, **hub)))  # which raises where there is none
    shards, _ = get_checkpoint_shard_files(source, index, **hub)
    return {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
