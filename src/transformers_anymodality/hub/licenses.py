"""Which of several licences binds most, and under which licence a part was published."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import CardData, ModelCard, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from yaml import YAMLError


UNKNOWN = "unknown"

# From free to bound, by the Hub's names: who uses the whole must keep to the terms of all of them, so this only chooses
# the one that the card's metadata shows.
_RANKS = (
    ("cc0-1.0", "unlicense", "wtfpl", "pddl"),
    ("mit", "apache-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "zlib", "cc-by-3.0", "cc-by-4.0", "ms-pl"),
    ("mpl-2.0", "lgpl", "lgpl-3.0", "cc-by-sa-4.0", "cc-by-sa-3.0", "gpl", "gpl-2.0", "gpl-3.0", "agpl-3.0"),
    ("openrail", "openrail++", "creativeml-openrail-m", "bigscience-openrail-m", "bigscience-bloom-rail-1.0")
    + ("bigcode-openrail-m", "gemma", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4"),
    ("cc-by-nd-4.0", "other"),
    ("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0"),
    ("cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "fair-noncommercial-research-license"),
    ("cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
    (UNKNOWN,),
)


def strictest(licences: Iterable[str]) -> str:
    """The one that binds most; "unknown" if one of them is, or there are none. Names not known here count as "other"."""
    ranks = {name: rank for rank, names in enumerate(_RANKS) for name in names}
    return max(licences, key=lambda name: ranks.get(name.lower(), ranks["other"]), default=UNKNOWN)


def is_hub_id(source: str | None) -> bool:
    """Whether this names a repository on the Hub, not a folder."""
    if not source or Path(source).exists() or source.startswith((".", "/", "~")):
        return False
    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return True


def published_card(source: str) -> CardData | None:
    """The metadata of the card beside a part: in its folder, in the cache, or on the Hub; None if there is none."""
    file = Path(source) / "README.md"
    if not Path(source).is_dir():
        cached = try_to_load_from_cache(source, "README.md") if is_hub_id(source) else None
        file = Path(cached) if isinstance(cached, str) else None
    try:
        if file is not None:
            return ModelCard.load(file, ignore_metadata_errors=True).data if file.is_file() else None
        return None if is_offline_mode() or not is_hub_id(source) else ModelCard.load(source).data
    except (OSError, HfHubHTTPError, ValueError, YAMLError):
        return None


def licence_of(card: Any) -> str:
    """The Hub's name of the licence in a card's metadata."""
    found = None if card is None else getattr(card, "license", None)
    if isinstance(found, list):
        return strictest(str(one).lower() for one in found)
    return str(found).lower() if found else UNKNOWN
