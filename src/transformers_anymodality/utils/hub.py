"""The arguments that say which files are meant, and how they are fetched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


FETCHING = ("cache_dir", "force_download", "local_files_only", "proxies", "token")
HUB_KWARGS = (*FETCHING, "revision", "subfolder")


def hub_kwargs(kwargs: Mapping[str, Any], names: Iterable[str] = HUB_KWARGS) -> dict[str, Any]:
    return {name: kwargs[name] for name in names if name in kwargs}
