"""Emoji: Google's pictures with names and categories, and OpenMoji's tags."""

import json
import re
from pathlib import Path
from typing import Any

from .splits import SHARES, assign, clusters, normalised


_PEOPLE = re.compile(r"\b(man|woman|person|people|men|women|boy|girl|female|male)s?\b")
_NOT_PICTURES = ("Component",)  # only skin tones


def load(raw: Path, tags: Path | None = None) -> dict[str, list[dict[str, Any]]]:
    """Split -> emoji: `image` (64 x 64 PNG, transparent background), `name`, `category`, `subcategory`, `tags`.

    Each once, without its skin variants. Split by name: similar ones within a subcategory, such as a man and a woman who do
    the same, are on one side; all categories are in all splits.

    Args:
        tags: folder of OpenMoji. Without it there are no tags, and names are those of Unicode in lower case.
    """
    pictures = next(raw.rglob("img/google/64"))
    entries = json.loads(next(raw.rglob("emoji.json")).read_text(encoding="utf-8"))
    told = {} if tags is None else json.loads(next(tags.rglob("data/openmoji.json")).read_text(encoding="utf-8"))
    told = {_code(one["hexcode"]): one for one in told}
    items = []
    for entry in sorted(entries, key=lambda entry: entry["unified"]):
        file = pictures / entry["image"]
        if not entry["has_img_google"] or entry["category"] in _NOT_PICTURES or not file.is_file():
            continue
        more = told.get(_code(entry["unified"]), {})
        words = f"{more.get('tags', '')}, {more.get('openmoji_tags', '')}".split(", ")
        items.append(
            {
                "id": entry["unified"],
                "image": str(file),
                "name": more.get("annotation") or entry["name"].lower(),
                "category": entry["category"],
                "subcategory": entry["subcategory"],
                "tags": sorted({word for word in words if word}),
            }
        )
    names = [" ".join(_PEOPLE.sub("", normalised(item["name"])).split()) or item["name"] for item in items]
    cluster = clusters(names, [(item["category"], item["subcategory"]) for item in items])
    result = {name: [] for name in SHARES}
    for item, number, split in zip(items, cluster, assign(cluster), strict=True):
        result[split].append({**item, "cluster": number})
    return result


def _code(unified: str) -> str:
    """Code points without variation selectors, which the two sources write differently."""
    return "-".join(part for part in unified.upper().split("-") if part != "FE0F")
