"""Shared by commands: running in one or several processes, errors, and loading."""

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from anymodality.plain.printing import as_json, visible


if TYPE_CHECKING:
    from transformers_anymodality import AnyModalityForCausalLM, AnyModalityProcessor


# Valid names in `--max NAME=N`, besides megabytes: fields `max_NAME` of a policy and of its limits.
_MAXIMA = ("pixels", "seconds", "frames", "media", "new_tokens", "requests")


class Command(TyperCommand):
    """Loads the package and the module of `--import`, then runs. A user's error is one line on stderr, exit status 1.

    The text after "Example:" in its docstring is printed at the end of its help.
    """

    loads_package = True  # else only for `--import`

    def __init__(self, *args: Any, help: str | None = None, **settings: Any):
        text, found, example = (help or "").partition("Example:\n")
        super().__init__(*args, **{**settings, "help": text, "epilog": f"\b\n{found}{example}"})

    def invoke(self, ctx: typer.Context) -> Any:
        try:
            module = ctx.params.get("module")
            if self.loads_package or module:
                load_package()
            if module:
                sys.path.insert(0, os.getcwd())
                importlib.import_module(module)
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # the reader closed the pipe
        except (ValueError, OSError, ImportError) as error:
            own = "module" in ctx.params and not ctx.params["module"] and _is_unknown_name(error)
            tell(f"{ctx.command_path}: {error}{' To import your own: --import MODULE.' * own}", file=sys.stderr)
            raise typer.Exit(1) from error


def _is_unknown_name(error: BaseException | None) -> bool:
    """Whether it was caused by a name that nobody has registered."""
    registry = sys.modules.get("transformers_anymodality.utils.registry")
    if registry is None or error is None:
        return False
    return isinstance(error, registry.UnknownNameError) or _is_unknown_name(error.__cause__)


def group(help: str) -> typer.Typer:
    """For a module with several commands: `app = group("...")`, then `@app.command(cls=Command)`."""
    return typer.Typer(help=help, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def load_package() -> None:
    """Imports the package, which takes seconds; help, completion and errors about options do not need it."""
    importlib.import_module("transformers_anymodality")


def is_alone() -> bool:
    """Whether this is the only process, not one of several from a launcher."""
    return int(os.environ.get("WORLD_SIZE", 1)) == 1


def run_in_processes(ctx: typer.Context) -> None:
    """Runs this command with torchrun in `num_processes` processes; exit status 1 if one fails."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    count = ctx.params["num_processes"]
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    try:
        torchrun(["--standalone", "--nproc_per_node", str(count), "-m", "anymodality.cli", *ctx.obj])
    except ChildFailedError as error:  # each process has printed its error
        raise typer.Exit(1) from error


def name_of(source: str) -> str:
    """The default name of a model: its folder's name, or its Hub id."""
    return Path(source).resolve().name if Path(source).is_dir() else source


def load_processor(source: str) -> "AnyModalityProcessor":
    """The processor of a checkpoint; raises ValueError if it belongs to another kind of model."""
    from transformers import AutoConfig, AutoProcessor

    from transformers_anymodality.utils.hub import check_source

    check_source(source)
    if not Path(source).is_dir() or Path(source, "config.json").is_file():  # there may be a processor alone
        AutoConfig.from_pretrained(source)  # says which module to import; the tokenizer's loading would warn first
    processor = AutoProcessor.from_pretrained(source)
    if not hasattr(processor, "encode_chat"):
        raise ValueError(
            f"{source} is not a transformers-anymodality checkpoint, but has a {type(processor).__name__}."
        )
    return processor


def load_model(source: str, dtype: str = "auto", device: str | None = None) -> "AnyModalityForCausalLM":
    """A checkpoint's model in eval mode."""
    from transformers import AutoModelForCausalLM

    from transformers_anymodality.utils.hub import check_source

    check_source(source)
    return AutoModelForCausalLM.from_pretrained(source, dtype=dtype).to(device or own_device()).eval()


def own_device() -> str:
    """A GPU if there is one; with several, this process's GPU."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"


def within(policy: Any, given: list[str] | None) -> Any:
    """A copy of a server's or demo's policy, with the limits given as NAME=N."""
    from transformers_anymodality.utils.registry import did_you_mean

    limits, own = dict(vars(policy.limits)), dict(vars(policy))
    places = {name: (holder, f"max_{name}") for holder in (limits, own) for name in _MAXIMA if f"max_{name}" in holder}
    places["megabytes"] = (limits, "max_bytes")
    for words in given or ():
        name, _, value = words.partition("=")
        if name not in places:
            hint = did_you_mean(name, places)
            raise typer.BadParameter(f"{words!r} is not a limit.{hint} Known: {', '.join(places)}.")
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not 0 < number < float("inf"):
            raise typer.BadParameter(f"{words!r} must be {name}=N; N must be a number above 0.")
        holder, key = places[name]
        number = number * 1024**2 if name == "megabytes" else number
        holder[key] = number if name == "seconds" else int(number)
    return replace(policy, **{**own, "limits": replace(policy.limits, **limits)})


def named_values(given: Sequence[str] | None) -> dict[str, Any]:
    """The values of a repeatable option NAME=VALUE; each value is YAML."""
    import yaml

    found = {}
    for words in given or ():
        name, equals, value = words.partition("=")
        if not equals:
            raise typer.BadParameter(f"{words!r} must be NAME=VALUE.")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise typer.BadParameter(f"The value in {words!r} is not YAML: {error}") from error
    return found


def media_part(modality: str, path: str) -> dict[str, str]:
    """The content part of a chat for a medium on disk or on the web."""
    return {"type": modality, "url" if path.startswith(("http://", "https://")) else "path": path}


def sampling(
    model: "AnyModalityForCausalLM", max_new_tokens: int | None, temperature: float | None, seed: int | None
) -> dict[str, Any]:
    """Arguments of `generate`; None keeps the value of the checkpoint's generation config. Sets the seed."""
    from transformers import set_seed

    if seed is not None:
        set_seed(seed)
    chosen: dict[str, Any] = {}
    if max_new_tokens is not None or model.generation_config.max_new_tokens is None:
        chosen["max_new_tokens"] = max_new_tokens or 256
    if temperature is not None:
        chosen |= {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    return chosen


def tell(text: Any, **settings: Any) -> None:
    """Prints text without control characters: file names, data and answers are not trusted."""
    print(visible(text), **settings)


def print_json(document: Any) -> None:
    print(as_json(document))
