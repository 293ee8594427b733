"""Options as rows: the name of the value, what it is; and those that several commands have."""

from typing import Annotated, Any, Literal

import typer


def option(metavar: str | None, help: str, *names: str, **settings: Any) -> Any:
    """An option; None for a type whose values help lists."""
    return typer.Option(*names, metavar=metavar, help=help, **settings)


def flag(name: str, help: str) -> Any:
    """An option without a value."""
    return typer.Option(name, help=help)


def argument(metavar: str, help: str) -> Any:
    """A word that is not an option."""
    return typer.Argument(metavar=metavar, help=help, show_default=False)


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
NumProcesses = Annotated[int, option("N", "Number of processes on this machine, by torchrun.", min=1)]
