"""The real data sets, as splits of plain items, and as chats for training and evaluation.

    PYTHONPATH=examples python -m real.data [NAME ...] [--output outputs/parts]

Prints the number of items of each split, and writes chats to `outputs/parts/data/<task>_<split>.jsonl` for the tasks of
`tasks.kinds`. Missing parts are reported, and their data sets are left out.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import emoji, motion, noise, recordings, stamps, tasks, voices
from .fetch import OUTPUT, Fetched, fetch
from .splits import SHARES


Splits = dict[str, list[dict[str, Any]]]


def load_stamps(parts: Fetched, output: Path) -> Splits:
    return stamps.load(parts.folders["stamps"])


def load_same(parts: Fetched, output: Path) -> Splits:
    return stamps.pairs(stamps.load(parts.folders["stamps"]))


def load_noisy(parts: Fetched, output: Path) -> Splits:
    return noise.load(stamps.load(parts.folders["stamps"]), output / "noisy", tasks.SPOKEN)


def load_recordings(parts: Fetched, output: Path) -> Splits:
    return recordings.load(parts.folders["phrases"])


def load_voices(parts: Fetched, output: Path) -> Splits:
    captions: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    if "stamps" in parts.folders:
        for split, items in stamps.load(parts.folders["stamps"]).items():
            captions[split] = [item["caption"] for item in items]
    avoid = [*captions["validation"], *captions["test"]]
    found = parts.folders.get
    return voices.load(output / "voices", found("espeak"), found("flite"), captions["train"], avoid)


def load_emoji(parts: Fetched, output: Path) -> Splits:
    return emoji.load(parts.folders["emoji"], parts.folders.get("openmoji"))


def load_watch(parts: Fetched, output: Path) -> Splits:
    return motion.load(parts.folders["watch"], output / "watch")


# Name -> its loader, the parts that it needs, and optional parts.
DATASETS: dict[str, tuple[Callable[[Fetched, Path], Splits], tuple[str, ...], tuple[str, ...]]] = {
    "stamps": (load_stamps, ("stamps",), ()),
    "same": (load_same, ("stamps",), ()),
    "noisy": (load_noisy, ("stamps",), ()),
    "recordings": (load_recordings, ("phrases",), ()),
    "voices": (load_voices, (), ("espeak", "flite", "stamps")),
    "emoji": (load_emoji, ("emoji",), ("openmoji",)),
    "watch": (load_watch, ("watch",), ()),
}


def load(names: list[str] | None = None, output: Path = OUTPUT) -> dict[str, Splits]:
    """Fetches the parts, and returns name -> split -> items of each data set whose parts are available."""
    if unknown := sorted(set(names or ()) - DATASETS.keys()):
        raise ValueError(f"No data set {', '.join(unknown)}; there are {', '.join(DATASETS)}.")
    chosen = names or list(DATASETS)
    wanted = dict.fromkeys(part for name in chosen for kind in DATASETS[name][1:] for part in kind)
    parts, result = fetch(list(wanted), output), {}
    for name in chosen:
        make, needed, _ = DATASETS[name]
        if lacking := [part for part in needed if part not in parts.folders]:
            print(f"{name}: left out, because {', '.join(lacking)} is missing.", flush=True)
            continue
        if any((splits := make(parts, output)).values()):
            result[name] = splits
        else:
            print(f"{name}: left out, because it has no items.", flush=True)
    return result


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="real.data", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"data sets: {', '.join(DATASETS)}; default: all")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for downloads and results")
    given = parser.parse_args(arguments)
    folder, sets = given.output / "data", load(given.names, given.output)
    folder.mkdir(parents=True, exist_ok=True)
    for name, splits in sets.items():
        print(f"{name}: {', '.join(f'{split} {len(items)}' for split, items in splits.items())}")
    for split in SHARES:
        for task, questions in tasks.kinds(sets, split, seed=0).items():
            if questions:
                lines = "".join(json.dumps(one.record, ensure_ascii=False) + "\n" for one in questions)
                (folder / f"{task}_{split}.jsonl").write_text(lines, encoding="utf-8")
                print(f"{folder / f'{task}_{split}.jsonl'}: {len(questions)} chats", flush=True)


if __name__ == "__main__":
    main()
