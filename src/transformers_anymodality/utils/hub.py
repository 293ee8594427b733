"""The names and arguments that say which files are meant, and how they are fetched."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import AutoConfig, PreTrainedConfig


FETCHING = ("cache_dir", "force_download", "local_files_only", "proxies", "token")
HUB_KWARGS = (*FETCHING, "revision", "subfolder")


def hub_kwargs(kwargs: Mapping[str, Any], names: Iterable[str] = HUB_KWARGS) -> dict[str, Any]:
    return {name: kwargs[name] for name in names if name in kwargs}


def is_hub_id(source: str | None) -> bool:
    """Whether this names a repository on the Hub, not a folder."""
    if not source or Path(source).exists() or source.startswith((".", "/", "~")):
        return False
    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return True


def config_alone(source: Any, dtype: str | torch.dtype | None = None, **kwargs: Any) -> PreTrainedConfig | None:
    """Within `torch.device("meta")`, the config of a Hub id or path, with the dtype that its weights would be loaded in;
    None elsewhere, where weights are loaded."""
    if torch.get_default_device().type != "meta":
        return None
    config = AutoConfig.from_pretrained(source, **kwargs)
    if dtype not in (None, "auto"):
        config.dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    return config
