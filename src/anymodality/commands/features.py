"""`anymodality features build | check`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from anymodality.commands import _options as options
from anymodality.commands._base import Command, group, is_alone, load_processor, own_device, run_in_processes, tell
from anymodality.commands._options import argument, flag, option
from anymodality.plain.printing import size


app = group("Features of frozen towers, computed once and read in training.")


@app.command(cls=Command)
def build(
    ctx: typer.Context,
    data: Annotated[str, argument("DATA", "JSON, JSONL, Parquet, WebDataset shards, a folder, or a Hub id.")],
    model: Annotated[str, option("DIR", "Model; its language model is not loaded.")],
    output: Annotated[str, option("DIR", "Folder of the store, new or from an earlier build.")],
    modalities: Annotated[str | None, option("NAMES", "Modalities, separated by commas; default: all.")] = None,
    batch_size: Annotated[int, option("N", "Batch size of the towers.")] = 16,
    dtype: options.OwnDType = None,
    num_processes: options.NumProcesses = 1,
    workers: options.Workers = 0,
    shard_size: Annotated[int, option("MB", "Maximum size of a feature file.")] = 256,
    media_root: options.MediaRoot = None,
    split: options.Split = "train",
    stream: Annotated[bool, flag("--stream", "Stream shards and Parquet instead of copying them first.")] = False,
    on_error: Annotated[Literal["error", "skip"], option(None, "Action for media that cannot be read.")] = "error",
    no_verify: Annotated[bool, flag("--no-verify", "No check of existing features.")] = False,
    module: options.Import = None,
) -> None:
    """Compute the features of a data set once, so that training does not run the towers.

    If it is killed, run it again: it continues. A second run adds and repairs files.
    Features are keyed by file hash, so files may be renamed. A store is refused
    if the towers or the preparation of media have changed.

    Example:
      anymodality features build chats.jsonl --model panda/ --output features/
    """
    if num_processes > 1 and is_alone():
        run_in_processes(ctx)
        return check(output)
    import torch

    from transformers_anymodality.data.datasets import load_raw, open_records
    from transformers_anymodality.features.build import build_features, load_towers

    counts = build_features(
        load_towers(model).to(own_device()),
        load_processor(model),
        load_raw(data, split=split, streaming=True) if stream else open_records(data, split),
        output,
        modalities=None if modalities is None else modalities.split(","),
        batch_size=batch_size,
        dtype=None if dtype is None else getattr(torch, dtype),
        workers=workers,
        shard_bytes=shard_size * 2**20,
        media_root=media_root,
        on_error=on_error,
        verify=not no_verify,
    )
    if is_alone():
        tell(_table(output, counts))


@app.command(cls=Command)
def check(
    store: Annotated[str, argument("DIR", "Folder of the store.")],
    model: Annotated[str | None, option("DIR", "Composite to compare with the store.")] = None,
    verify: Annotated[bool, flag("--verify", "Check of every feature against its checksum.")] = False,
    module: options.Import = None,
) -> None:
    """Describe a feature store; with --model, check that it fits this model.

    Example:
      anymodality features check features/ --model panda/
      anymodality features check features/ --verify
    """
    from transformers_anymodality.features.build import load_towers
    from transformers_anymodality.features.store import FeatureStore

    found = FeatureStore(store, None if model is None else load_towers(model))
    if verify:
        found.verify()
    if model is not None:
        found.check_processor(load_processor(model))
    tell(_table(store, {name: len(index) for name, index in found.indexes.items()}))


def _table(folder: str, counts: dict[str, int]) -> str:
    lines = [f"{folder}:"]
    for name, count in counts.items():
        files = list(Path(folder, name).glob("*.safetensors"))
        whole = size(sum(file.stat().st_size for file in files))
        lines.append(f"  {name:<12} {count:>9,} features {whole:>13} in {len(files):,} files")
    return "\n".join(lines)
