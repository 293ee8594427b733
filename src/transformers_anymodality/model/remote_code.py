"""Lets `trust_remote_code=True` load a checkpoint if this package is installed but not imported.

`auto_map` in `config.json` and `processor_config.json` names classes of a module in the same folder. That module imports
this package, which registers everything; the package's code is not copied into checkpoints.
"""

import os
from pathlib import Path
from typing import Any

from transformers.utils import PushToHubMixin


MODULE = "anymodality_remote"

_SHIM = '''\
"""Lets `trust_remote_code=True` load this checkpoint: all code is in the package `transformers-anymodality`."""

try:
    from transformers_anymodality import (  # noqa: F401
        AnyModalityConfig,
        AnyModalityForCausalLM,
        AnyModalityModel,
        AnyModalityProcessor,
    )
except ModuleNotFoundError as error:
    if error.name != "transformers_anymodality":
        raise
    raise ImportError(
        "This checkpoint needs the package transformers-anymodality. Install it by: "
        'pip install "transformers-anymodality[image,audio,video,signal]"'
    ) from error
'''

_CAUSAL = ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")
CONFIG_AUTO_MAP = {
    "AutoConfig": f"{MODULE}.AnyModalityConfig",
    "AutoModel": f"{MODULE}.AnyModalityModel",
    **dict.fromkeys(_CAUSAL, f"{MODULE}.AnyModalityForCausalLM"),
}
PROCESSOR_AUTO_MAP = {"AutoProcessor": f"{MODULE}.AnyModalityProcessor"}


def write_module(folder: str | os.PathLike) -> None:
    """Writes the module that `auto_map` names, and creates the folder if needed."""
    place = Path(folder)
    if not place.is_file():  # the caller reports this
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{MODULE}.py").write_text(_SHIM, encoding="utf-8")


class RemoteCodeMixin(PushToHubMixin):
    """Saves the module that `auto_map` names next to the config."""

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> Any:
        write_module(save_directory)
        return super().save_pretrained(save_directory, *args, **kwargs)

    def _upload_modified_files(self, working_dir, repo_id, files_timestamps, **kwargs) -> Any:
        # The module was written before the time stamps were taken.
        earlier = {file: time for file, time in files_timestamps.items() if file != f"{MODULE}.py"}
        return super()._upload_modified_files(working_dir, repo_id, earlier, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "") -> None:
        """Does nothing: checkpoints name the installed package, and copies of its files would break them."""
