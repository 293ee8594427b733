"""Tux Paint's stamps: pictures with captions in many languages, spoken captions, and sounds of the objects."""

import hashlib
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from .splits import assign, clusters, normalised


LANGUAGES = ("en", "es", "fr", "ca", "ro", "bg", "ru")  # nearly all stamps have spoken captions in these
_LINE = re.compile(r"(\w+)\.utf8=(.*)")


def load(raw: Path) -> dict[str, list[dict[str, Any]]]:
    """Split -> stamps. Each is

    - `id`: its place, `animals/mammals/badger`; `category`: its first folder;
    - `image`: PNG, often with a transparent background; None if there is only an SVG, then only speech is used;
    - `caption`: English; `captions`: language -> caption, as written;
    - `speech`: language -> a recording of that caption. A language has few speakers, who are in all splits;
    - `sound`: a recording of the object itself, or None.

    Split by caption: stamps with the same normalised caption, similar captions within a category, the same picture or the
    same sound are on one side.
    """
    root = next(raw.rglob("tuxpaint/stamps"))
    stamps = [stamp for file in sorted(root.rglob("*.txt")) if (stamp := _read(file, root))]
    names = [normalised(stamp["caption"]) for stamp in stamps]
    same = [[_digest(stamp[key]) for stamp in stamps] for key in ("image", "sound")]
    cluster = clusters(names, [stamp["category"] for stamp in stamps], same)
    splits = defaultdict(list, {name: [] for name in ("train", "validation", "test")})
    for stamp, number, split in zip(stamps, cluster, assign(cluster), strict=True):
        splits[split].append({**stamp, "cluster": number})
    return dict(splits)


def _read(file: Path, root: Path) -> dict[str, Any] | None:
    """The stamp of a file of captions; None if there is no picture or no caption."""
    first, *lines = file.read_text(encoding="utf-8").splitlines() or [""]
    base, place = file.with_suffix(""), file.relative_to(root).with_suffix("")
    beside = {suffix: path for suffix in ("png", "svg", "ogg", "wav") if (path := Path(f"{base}.{suffix}")).is_file()}
    if not first.strip() or not beside.keys() & {"png", "svg"}:
        return None
    captions = {match[1]: match[2].strip() for line in lines if (match := _LINE.fullmatch(line)) and match[2].strip()}
    recordings = {code: Path(f"{base}_desc{'' if code == 'en' else '_' + code}.ogg") for code in LANGUAGES}
    # Recordings of symbols are words: their spoken names.
    sound = None if place.parts[0] == "symbols" else beside.get("ogg") or beside.get("wav")
    return {
        "id": place.as_posix(),
        "category": place.parts[0],
        "image": str(beside["png"]) if "png" in beside else None,
        "caption": first.strip(),
        "captions": {"en": first.strip()} | {code: captions[code] for code in LANGUAGES if code in captions},
        "speech": {code: str(path) for code, path in recordings.items() if path.is_file()},
        "sound": str(sound) if sound else None,
    }


def _digest(file: str | None) -> str | None:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else None


def pairs(splits: dict[str, list[dict[str, Any]]], seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Same or not: a stamp's picture with a recording of an object or a caption, its own or another stamp's.

    Each recording comes twice: with its own picture, and with a picture of another cluster of the same split and, if there
    is one, with the same kind of recording. So neither the picture nor the recording alone gives the answer.

    Returns:
        Split -> pairs: `image`, `audio`, `kind` ("sound" or a language), `same`, `caption` of the picture, and `heard`, the
        caption of the recording's stamp.
    """
    rng, result = np.random.default_rng(seed), {}
    for split, stamps in splits.items():
        result[split] = []
        for kind in ("sound", *LANGUAGES):
            recordings = [(s, s["sound"] if kind == "sound" else s["speech"].get(kind)) for s in stamps if s["image"]]
            recordings = [(stamp, path) for stamp, path in recordings if path]
            shuffled = rng.permutation(len(recordings))
            for place, (stamp, path) in zip(np.argsort(shuffled), recordings, strict=True):
                # The next in a shuffled ring: every picture comes as often with its own recording as with another.
                ring = np.roll(shuffled, -int(place) - 1)
                others = (recordings[i][0] for i in ring if recordings[i][0]["cluster"] != stamp["cluster"])
                for picture in (stamp, next(others, None)):
                    if picture is not None:
                        result[split].append(
                            {
                                "id": f"{picture['id']} {kind} {stamp['id']}",
                                "image": picture["image"],
                                "audio": path,
                                "kind": kind,
                                "same": picture is stamp,
                                "caption": picture["caption"],
                                "heard": stamp["caption"],
                            }
                        )
    return result
