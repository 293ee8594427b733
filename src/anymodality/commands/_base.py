"""What commands share: how they run, how they fail, and options that several have."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from anymodality.commands._options import argument, flag, option


if TYPE_CHECKING:
    from transformers_anymodality import AnyModalityForCausalLM, AnyModalityProcessor


Import = Annotated[
    str | None, option("MODULE", "Module that registers modalities and towers of your own.", "--import")
]
DType = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"], option(None, "Dtype of the weights; auto: as they were saved.")
]
OwnDType = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    option(None, "Dtype of the weights; default: as they were saved."),
]
Device = Annotated[str | None, option("NAME", "Device: cpu, cuda, cuda:1, mps; default: a GPU if there is one.")]
Source = Annotated[str, argument("DIR", "The model: a folder or Hub id.")]
MaxPixels = Annotated[int, option("N", "Most pixels of an image or a frame.", min=1)]
MaxSeconds = Annotated[float, option("N", "Longest audio, video or signal, in seconds.", min=0.001)]
SystemPrompt = Annotated[str | None, option("TEXT", "Text that the model is told first.")]
MaxNewTokens = Annotated[
    int | None, option("N", "Most tokens of an answer; default: the checkpoint's, or 256.", min=1)
]
Temperature = Annotated[
    float | None, option("T", "Temperature, 0 = greedy decoding; default: the checkpoint's.", min=0)
]
Seed = Annotated[int | None, option("N", "Seed of sampling.")]
AllowUrls = Annotated[bool, flag("--allow-urls", "Fetch media that are given by URL.")]
MediaRoot = Annotated[str | None, option("DIR", "Folder that relative paths are in; default: here.")]
Split = Annotated[str, option("NAME", "Split of a Hub data set.")]
Workers = Annotated[int, option("N", "Processes that read media; 0: the command's own.", min=0)]
Json = Annotated[bool, flag("--json", "Print one JSON document instead, for scripts.")]


class Command(TyperCommand):
    """Loads the package and the module of `--import`, then runs. Errors that a user can mend are one line, exit status 1."""

    def invoke(self, ctx: typer.Context) -> Any:
        try:
            load_package()
            import_module(ctx.params.get("module"))
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # whoever read the output has seen enough
        except (ValueError, OSError, ImportError) as error:
            print(f"{ctx.command_path}: {error}", file=sys.stderr)
            raise typer.Exit(1) from error


class ListingCommand(Command):
    """One whose help ends with what is registered, which only the loaded package knows."""

    def listing(self) -> str:
        raise NotImplementedError

    def format_epilog(self, ctx: typer.Context, formatter: Any) -> None:
        load_package()
        formatter.write(f"\n{self.listing()}\n")


def group(help: str) -> typer.Typer:
    """For a module of several commands: `app = group("...")`, then `@app.command(cls=Command)`."""
    return typer.Typer(help=help, no_args_is_help=True, rich_markup_mode=None)


def load_package() -> None:
    """Imports the package, which takes seconds; help, completion and mistyped options do without."""
    # What torchao and torch have to tell each other is nothing that a user of commands could mend.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    importlib.import_module("transformers_anymodality")


def import_module(name: str | None) -> None:
    """Imports a module, from the working directory, too."""
    if name:
        sys.path.insert(0, os.getcwd())
        importlib.import_module(name)


def name_of(source: str) -> str:
    """What a model is called where nobody said: its folder's name, or its Hub id."""
    return Path(source).resolve().name if Path(source).is_dir() else source


def load_processor(source: str) -> AnyModalityProcessor:
    """The processor of a checkpoint; ValueError if it is another model's."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(source)
    if not hasattr(processor, "encode_chat"):
        raise ValueError(
            f"{source} is not a transformers-anymodality checkpoint, but has a {type(processor).__name__}."
        )
    return processor


def load_model(source: str, dtype: str = "auto", device: str | None = None) -> AnyModalityForCausalLM:
    """A checkpoint's model in eval mode."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(source, dtype=dtype).to(device or own_device()).eval()


def own_device() -> str:
    """A GPU if there is one; of several, that of this process."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"


def media_part(modality: str, path: str) -> dict[str, str]:
    """The content part of a chat for a medium on disk, or on the web."""
    return {"type": modality, "url" if path.startswith(("http://", "https://")) else "path": path}


def sampling(model: AnyModalityForCausalLM, max_new_tokens: int | None, temperature: float | None) -> dict[str, Any]:
    """Arguments of `generate`; what the checkpoint's generation config says, where nothing was chosen."""
    chosen: dict[str, Any] = {}
    if max_new_tokens is not None or model.generation_config.max_new_tokens is None:
        chosen["max_new_tokens"] = max_new_tokens or 256
    if temperature is not None:
        chosen |= {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    return chosen


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))
