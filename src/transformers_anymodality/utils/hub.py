"""Names of models (Hub ids, folders and GGUF files), and how they are loaded."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id
from transformers import AutoConfig, PreTrainedConfig

from .imports import require
from .upstream import httpx


FETCHING = ("cache_dir", "force_download", "local_files_only", "proxies", "token")
HUB_KWARGS = (*FETCHING, "revision", "subfolder")


def hub_kwargs(kwargs: Mapping[str, Any], names: Iterable[str] = HUB_KWARGS) -> dict[str, Any]:
    return {name: kwargs[name] for name in names if name in kwargs}


def is_hub_id(source: str | None) -> bool:
    """Whether this is the name of a repository on the Hub, not a folder."""
    if not source or Path(source).exists() or source.startswith((".", "/", "~")):
        return False
    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return True


def gguf_arguments(source: Any) -> tuple[Any, dict[str, str]]:
    """Splits a path or Hub id that ends in the name of a GGUF file for the Auto classes: the folder or repository, and
    `gguf_file`. Anything else is returned unchanged."""
    if isinstance(source, (str, os.PathLike)) and os.fspath(source).endswith(".gguf"):
        require("gguf")
        folder, file = os.path.split(source)
        return folder or ".", {"gguf_file": file}
    return source, {}


def check_source(source: str | os.PathLike, **kwargs: Any) -> None:
    """Raises FileNotFoundError if there is no such folder and this is not a repository's name, or if the Hub cannot be
    reached to look for it. (Transformers retries for minutes, and does not name the model.) `kwargs`: for the Hub."""
    source = os.fspath(source)
    if Path(source).exists():
        return
    if not is_hub_id(source):
        raise FileNotFoundError(f"There is no folder {source}.")
    where = {name: kwargs[name] for name in ("cache_dir", "revision") if name in kwargs}
    if try_to_load_from_cache(source, "config.json", **where) is not None:
        return
    try:
        get_hf_file_metadata(hf_hub_url(source, "config.json"), token=kwargs.get("token"))
    except (OfflineModeIsEnabled, httpx.TransportError) as error:
        reason = "it is offline (HF_HUB_OFFLINE)" if isinstance(error, OfflineModeIsEnabled) else str(error)
        raise FileNotFoundError(
            f"There is no folder {source} here, and the Hub cannot be reached to look there: {reason}."
        ) from error
    except (HfHubHTTPError, EntryNotFoundError):  # it answers, and Transformers says what
        return


def check_folder(source: str | os.PathLike, subfolder: str = "", **kwargs: Any) -> None:
    """As `check_source`. Raises ValueError for a local path without a config, from which no model can be loaded."""
    check_source(source, **kwargs)
    path = Path(source)
    if path.is_file():
        raise ValueError(
            f"{source} is a file, but weights alone do not say which architecture they are for. Build the model, load them "
            "into it (safetensors, or `torch.load(..., weights_only=True)`), and pass the model, or the folder that its "
            "`save_pretrained` writes."
        )
    path = path / subfolder
    if not path.is_dir() or any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
        return
    held = sorted(file.name for file in path.iterdir())
    gguf = [name for name in held if name.endswith(".gguf")]
    hint = f" For a language model in GGUF, give the file: {path / gguf[0]}." if gguf else ""
    raise ValueError(
        f"{path} has no config.json, which every folder that `save_pretrained` writes has. It holds "
        f"{', '.join(held[:5]) or 'nothing'}{', ...' if held[5:] else ''}.{hint}"
    )


def config_alone(source: Any, dtype: str | torch.dtype | None = None, **kwargs: Any) -> PreTrainedConfig | None:
    """Within `torch.device("meta")`, the config of a Hub id or path, with the dtype that its weights would be loaded in;
    None elsewhere, where weights are loaded."""
    if torch.get_default_device().type != "meta":
        return None
    config = AutoConfig.from_pretrained(source, **kwargs)
    if dtype not in (None, "auto"):
        config.dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    return config
