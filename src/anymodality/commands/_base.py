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


if TYPE_CHECKING:
    from transformers_anymodality import AnyModalityForCausalLM, AnyModalityProcessor


Import = Annotated[
    str | None,
    typer.Option("--import", metavar="MODULE", help="Module that registers modalities and towers of your own."),
]
DType = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Of all weights; auto: the checkpoint's.")
]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, mps; default: a GPU if there is one.")
]
Source = Annotated[str, typer.Argument(metavar="DIR", help="The model: a folder or Hub id.", show_default=False)]
MaxPixels = Annotated[int, typer.Option(min=1, help="Of an image or a frame.")]
MaxSeconds = Annotated[float, typer.Option(min=0.001, help="Of sound, video and signals.")]
SystemPrompt = Annotated[str | None, typer.Option(metavar="TEXT", help="What the model is told first.")]
MaxNewTokens = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="At most; default: as the checkpoint says, or 256.")
]
Temperature = Annotated[
    float | None, typer.Option(metavar="T", min=0, help="0: the likeliest answer; default: as the checkpoint says.")
]
Seed = Annotated[int | None, typer.Option(metavar="N", help="For sampling.")]
AllowUrls = Annotated[bool, typer.Option("--allow-urls", help="Fetch media that are given by URL.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead, for scripts.")]


class Command(TyperCommand):
    """Runs with the package loaded; errors that a user can mend are one line, and exit status 1."""

    def invoke(self, ctx: typer.Context) -> Any:
        try:
            load_package()
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
    """Imports the module that `--import` names, from the working directory, too."""
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
        raise ValueError(f"{source} is no any-modality model, but has a {type(processor).__name__}.")
    return processor


def load_model(source: str, dtype: str = "auto", device: str | None = None) -> AnyModalityForCausalLM:
    """A checkpoint's model in eval mode, on a GPU if there is one."""
    import torch
    from transformers import AutoModelForCausalLM

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return AutoModelForCausalLM.from_pretrained(source, dtype=dtype).to(device).eval()


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
