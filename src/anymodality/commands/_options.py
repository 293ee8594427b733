"""Helpers to declare options, and options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from anymodality.commands._base import load_package


def option(metavar: str | None, help: str, *names: str, **settings: Any) -> Any:
    """An option; `metavar` is None if the help lists the values."""
    return typer.Option(*names, metavar=metavar, help=help, **settings)


def flag(name: str, help: str) -> Any:
    """An option without a value."""
    return typer.Option(name, help=help)


def listing(lines: Callable[[], str], help: str) -> Any:
    """A flag that prints registered names, which need the loaded package, and exits."""

    def show(wanted: bool) -> None:
        if wanted:
            load_package()
            print(lines())
            raise typer.Exit

    return typer.Option("--list", help=help, is_eager=True, callback=show)


def argument(metavar: str, help: str) -> Any:
    """A positional argument."""
    return typer.Argument(metavar=metavar, help=help, show_default=False)


Import = Annotated[str | None, option("MODULE", "Module of your own parts, imported first.", "--import")]
DType = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"], option(None, "Dtype of the weights; auto: as saved.")
]
OwnDType = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    option(None, "Dtype of the weights; default: as saved."),
]
Device = Annotated[str | None, option("NAME", "Device, such as cuda:1; default: GPU or CPU.")]
Source = Annotated[str, argument("DIR", "Model: a folder or Hub id.")]
Max = Annotated[list[str] | None, option("NAME=N", "Limit, such as seconds=30; repeatable.", "--max")]
Examples = Annotated[Path | None, option("FILE", "JSONL file of chats; their first messages become examples.")]
SystemPrompt = Annotated[str | None, option("TEXT", "System message at the start of each chat.")]
MaxNewTokens = Annotated[
    int | None, option("N", "Maximum tokens of an answer; default: the checkpoint's, or 256.", min=1)
]
Temperature = Annotated[
    float | None, option("T", "Temperature; 0 = greedy decoding; default: the checkpoint's.", min=0)
]
Seed = Annotated[int | None, option("N", "Random seed for sampling.")]
AllowUrls = Annotated[bool, flag("--allow-urls", "Allow media from URLs.")]
MediaRoot = Annotated[str | None, option("DIR", "Folder for relative paths; default: here.")]
Split = Annotated[str, option("NAME", "Split of a Hub data set.")]
Workers = Annotated[int, option("N", "Workers that read media.", min=0)]
Json = Annotated[bool, flag("--json", "JSON output, for scripts.")]
NumProcesses = Annotated[int, option("N", "Processes (torchrun).", min=1)]
