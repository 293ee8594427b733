"""`anymodality features build | check`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from anymodality.commands._base import Command, Import, group, import_module
from anymodality.commands._processes import run_in_processes


app = group("Features of frozen towers, computed once and read in training.")


@app.command(cls=Command)
def build(
    ctx: typer.Context,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="JSON, JSONL, Parquet, WebDataset shards, a folder, or a Hub id.", show_default=False
        ),
    ],
    model: Annotated[str, typer.Option(metavar="DIR", help="The composite; its language model is not loaded.")],
    output: Annotated[str, typer.Option(metavar="DIR", help="The store, new or of an earlier build.")],
    modalities: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Separated by commas; default: all of the model's.")
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Media per run of a tower.")] = 16,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="That towers compute in and features are kept in; default: the checkpoint's."),
    ] = None,
    num_processes: Annotated[int, typer.Option(metavar="N", help="1, or as launched.")] = 1,
    workers: Annotated[int, typer.Option(metavar="N", help="Processes that read media, each.")] = 0,
    shard_size: Annotated[int, typer.Option(metavar="MB", help="Per file.")] = 256,
    media_root: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder that relative paths are in; default: here.")
    ] = None,
    split: Annotated[str, typer.Option(help="Of a Hub data set.")] = "train",
    on_error: Annotated[Literal["error", "skip"], typer.Option(help="For media that cannot be read.")] = "error",
    module: Import = None,
) -> None:
    """Run the frozen towers once over the media of a data set, so that training reads features instead.

    \b
      anymodality features build chats.jsonl --model panda/ --output features/
      anymodality features build chats.jsonl --model panda/ --output features/ --num-processes 4
      accelerate launch -m anymodality.cli features build chats.jsonl --model panda/ --output features/

    Then, in training: AnyModalityDataCollator(processor, features=FeatureStore("features/", model))

    Killed, it goes on where it was when it is run again. Files are known by their content: they may be renamed, and new
    ones are added by running it again. A store belongs to its towers and to the preparation of its media: changed ones
    are refused. Media that are prepared at random (augmentation) cannot be stored.
    """
    if num_processes > 1 and "WORLD_SIZE" not in os.environ:
        run_in_processes(_words(ctx), num_processes)
        return check(output)
    import torch
    from transformers import AutoProcessor

    from transformers_anymodality.data.datasets import load_raw
    from transformers_anymodality.data.files import open_records
    from transformers_anymodality.features.build import build_features, load_towers

    import_module(module)
    is_json = Path(data).suffix in (".json", ".jsonl")
    records = open_records(data) if is_json else load_raw(data, split=split)
    towers = load_towers(model)
    if torch.cuda.is_available():
        towers.to(f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}")
    counts = build_features(
        towers,
        AutoProcessor.from_pretrained(model),
        records,
        output,
        modalities=None if modalities is None else modalities.split(","),
        batch_size=batch_size,
        dtype=None if dtype is None else getattr(torch, dtype),
        workers=workers,
        shard_bytes=shard_size * 2**20,
        media_root=media_root,
        on_error=on_error,
    )
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        print(_table(output, counts))


@app.command(cls=Command)
def check(
    store: Annotated[str, typer.Argument(metavar="DIR", help="The store.", show_default=False)],
    model: Annotated[
        str | None, typer.Option(metavar="DIR", help="Compare its towers and processor with those of the store.")
    ] = None,
    module: Import = None,
) -> None:
    """Say what is in a feature store; and with --model, whether it is that model's.

    \b
      anymodality features check features/ --model panda/
    """
    from transformers_anymodality.features.store import FeatureStore

    towers = processor = None
    if model is not None:
        from transformers import AutoProcessor

        from transformers_anymodality.features.build import load_towers

        import_module(module)
        towers, processor = load_towers(model), AutoProcessor.from_pretrained(model)
    found = FeatureStore(store, towers)
    if processor is not None:
        found.check_processor(processor)
    print(_table(store, {name: len(shards) for name, shards in found._shards.items()}))


def _words(ctx: typer.Context) -> list[str]:
    """The command line of this call, for one process."""
    words = ["features", "build", ctx.params["data"]]
    for option in ctx.command.params:
        value = ctx.params.get(option.name)
        if option.name not in ("data", "num_processes") and value is not None:
            words += [option.opts[0], str(value)]
    return words


def _table(folder: str, counts: dict[str, int]) -> str:
    lines = [f"{folder}:"]
    for name, count in counts.items():
        files = list(Path(folder, name).glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files) / 2**20
        lines.append(f"  {name:<12} {count:>9,} features {size:>10,.1f} MB in {len(files):,} files")
    return "\n".join(lines)
