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
    str | None, option("MODULE", "Python module that registers your own modalities and towers.", "--import")
]
DType = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"], option(None, "Dtype of the weights; auto: as saved.")
]
OwnDType = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    option(None, "Dtype of the weights; default: as saved."),
]
Device = Annotated[str | None, option("NAME", "Device: cpu, cuda, cuda:1, mps; default: a GPU if there is one.")]
Source = Annotated[str, argument("DIR", "Model: a folder or Hub id.")]
MaxPixels = Annotated[int, option("N", "Maximum pixels of an image or frame.", min=1)]
MaxSeconds = Annotated[float, option("N", "Maximum seconds of audio, video or a signal.", min=0.001)]
SystemPrompt = Annotated[str | None, option("TEXT", "System message, which comes first in each chat.")]
MaxNewTokens = Annotated[
    int | None, option("N", "Maximum number of tokens in an answer; default: the checkpoint's, or 256.", min=1)
]
Temperature = Annotated[
    float | None, option("T", "Temperature; 0 = greedy decoding; default: the checkpoint's.", min=0)
]
Seed = Annotated[int | None, option("N", "Random seed for sampling.")]
AllowUrls = Annotated[bool, flag("--allow-urls", "Allow media from URLs.")]
MediaRoot = Annotated[str | None, option("DIR", "Folder for relative paths; default: the current one.")]
Split = Annotated[str, option("NAME", "Split of a Hub data set.")]
Workers = Annotated[int, option("N", "Number of processes that read media; 0: only the main process.", min=0)]
Json = Annotated[bool, flag("--json", "JSON output, for scripts.")]
NumProcesses = Annotated[int, option("N", "Number of processes on this machine, started by torchrun.", min=1)]
