"""The `anymodality features` commands."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path


_BUILD = """\
Runs the frozen towers once over the media of a data set, so that training reads features instead.

  anymodality features build chats.jsonl --model panda/ --output features/
  anymodality features build chats.jsonl --model panda/ --output features/ --num-processes 4
  accelerate launch -m transformers_anymodality.cli features build chats.jsonl --model panda/ --output features/

Then, in training:  AnyModalityDataCollator(processor, features=FeatureStore("features/", model))

Killed, it goes on where it was when it is run again. Files are known by their content: they may be renamed, and new ones
are added by running it again. A store belongs to its towers and to the preparation of its media: changed ones are
refused. Media that are prepared at random (augmentation) cannot be stored.
"""

_CHECK = """\
What is in a feature store; and with --model, whether it is that model's.

  anymodality features check features/ --model panda/
"""


_MODULE = "module that registers modalities and towers of your own"


def add_commands(commands) -> None:
    """Adds `features` to the commands of `anymodality`."""
    parser = commands.add_parser("features", help="features of frozen towers, computed once and read in training")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    style = argparse.RawDescriptionHelpFormatter
    build = actions.add_parser("build", help="compute them", description=_BUILD, formatter_class=style)
    build.add_argument("data", metavar="DATA", help="JSON, JSONL, Parquet, WebDataset shards, a folder, or a Hub id")
    build.add_argument("--model", required=True, metavar="DIR", help="the composite; its language model is not loaded")
    build.add_argument("--output", required=True, metavar="DIR", help="the store, new or of an earlier build")
    build.add_argument("--modalities", metavar="NAMES", help="separated by commas; default: all of the model's")
    build.add_argument("--batch-size", type=int, default=16, metavar="N", help="media per run of a tower; default: 16")
    build.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="that towers compute in and features are kept in; default: the checkpoint's",
    )
    build.add_argument("--num-processes", type=int, default=1, metavar="N", help="default: 1, or as launched")
    build.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that read media, each; default: 0"
    )
    build.add_argument("--shard-size", type=int, default=256, metavar="MB", help="per file; default: 256")
    build.add_argument("--media-root", metavar="DIR", help="folder that relative paths are in; default: here")
    build.add_argument("--split", default="train", help="of a Hub data set; default: train")
    build.add_argument(
        "--on-error", choices=("error", "skip"), default="error", help="for media that cannot be read; default: error"
    )
    build.add_argument("--import", dest="module", metavar="MODULE", help=_MODULE)
    build.set_defaults(run=_build)
    check = actions.add_parser("check", help="look at them", description=_CHECK, formatter_class=style)
    check.add_argument("store", metavar="DIR", help="the store")
    check.add_argument("--model", metavar="DIR", help="compare its towers and processor with those of the store")
    check.add_argument("--import", dest="module", metavar="MODULE", help=_MODULE)
    check.set_defaults(run=_check)


def _import(module: str | None) -> None:
    if module:
        sys.path.insert(0, os.getcwd())
        importlib.import_module(module)


def _build(chosen: argparse.Namespace) -> int:
    if chosen.num_processes > 1 and "WORLD_SIZE" not in os.environ:
        return _in_processes(chosen)
    import torch
    from transformers import AutoProcessor

    from ..data._files import open_records
    from ..data.loading import load_raw
    from .build import build_features, load_towers

    _import(chosen.module)
    is_json = Path(chosen.data).suffix in (".json", ".jsonl")
    records = open_records(chosen.data) if is_json else load_raw(chosen.data, split=chosen.split)
    model = load_towers(chosen.model)
    if torch.cuda.is_available():
        model.to(f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}")
    counts = build_features(
        model,
        AutoProcessor.from_pretrained(chosen.model),
        records,
        chosen.output,
        modalities=None if chosen.modalities is None else chosen.modalities.split(","),
        batch_size=chosen.batch_size,
        dtype=None if chosen.dtype is None else getattr(torch, chosen.dtype),
        workers=chosen.workers,
        shard_bytes=chosen.shard_size * 2**20,
        media_root=chosen.media_root,
        on_error=chosen.on_error,
    )
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        print(_table(chosen.output, counts))
    return 0


# Options of `build` that its processes are given, too.
_PASSED_ON = (
    "model",
    "output",
    "modalities",
    "batch_size",
    "dtype",
    "workers",
    "shard_size",
    "media_root",
    "split",
) + ("on_error",)


def _in_processes(chosen: argparse.Namespace) -> int:
    """This very command `num_processes` times, each with its rank."""
    count, given = chosen.num_processes, {name: getattr(chosen, name) for name in _PASSED_ON}
    options = [(f"--{name.replace('_', '-')}", str(value)) for name, value in given.items() if value is not None]
    arguments = [sys.executable, "-m", "transformers_anymodality.cli", "features", "build", chosen.data]
    arguments += [word for option in options for word in option]
    arguments += ["--import", chosen.module] if chosen.module else []
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    shared = {**os.environ, "WORLD_SIZE": str(count), "OMP_NUM_THREADS": threads}
    processes = [
        subprocess.Popen(arguments, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]
    try:
        status = max((process.wait() for process in processes), key=abs)
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
    if status:
        return 1
    return _check(argparse.Namespace(store=chosen.output, model=None))


def _check(chosen: argparse.Namespace) -> int:
    from .store import FeatureStore

    model = processor = None
    if chosen.model is not None:
        from transformers import AutoProcessor

        from .build import load_towers

        _import(chosen.module)
        model, processor = load_towers(chosen.model), AutoProcessor.from_pretrained(chosen.model)
    store = FeatureStore(chosen.store, model)
    if processor is not None:
        store.check_processor(processor)
    print(_table(chosen.store, {name: len(shards) for name, shards in store._shards.items()}))
    return 0


def _table(folder: str, counts: dict[str, int]) -> str:
    lines = [f"{folder}:"]
    for name, count in counts.items():
        files = list(Path(folder, name).glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files) / 2**20
        lines.append(f"  {name:<12} {count:>9,} features {size:>10,.1f} MB in {len(files):,} files")
    return "\n".join(lines)
