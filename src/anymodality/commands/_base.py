"""What commands share: how they run, alone or in several processes, how they fail, and what they load."""

import importlib
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand


if TYPE_CHECKING:
    from transformers_anymodality import AnyModalityForCausalLM, AnyModalityProcessor


class Command(TyperCommand):
    """Loads the package and the module of `--import`, then runs. Errors that a user can mend are one line, exit status 1."""

    def invoke(self, ctx: typer.Context) -> Any:
        try:
            load_package()
            if module := ctx.params.get("module"):
                sys.path.insert(0, os.getcwd())
                importlib.import_module(module)
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # whoever read the output has seen enough
        except (ValueError, OSError, ImportError) as error:
            known = "transformers_anymodality" in sys.modules
            (tell if known else print)(f"{ctx.command_path}: {error}", file=sys.stderr)
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
    return typer.Typer(help=help, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def load_package() -> None:
    """Imports the package, which takes seconds; help, completion and mistyped options do without."""
    # What torchao and torch have to tell each other is nothing that a user of commands could mend.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    importlib.import_module("transformers_anymodality")


def is_alone() -> bool:
    """Whether nobody launched this process among others."""
    return int(os.environ.get("WORLD_SIZE", 1)) == 1


def run_in_processes(ctx: typer.Context, *more: str) -> None:
    """Runs this command by torchrun in `num_processes` processes, with `more` words; exit status 1 if one fails."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    count, path = ctx.params["num_processes"], len(ctx.command_path.split()) - 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    words = [*ctx.obj[:path], *more, *ctx.obj[path:]]
    try:
        torchrun(["--standalone", "--nproc_per_node", str(count), "-m", "anymodality.cli", *words])
    except ChildFailedError as error:  # each has said why
        raise typer.Exit(1) from error


def name_of(source: str) -> str:
    """What a model is called where nobody said: its folder's name, or its Hub id."""
    return Path(source).resolve().name if Path(source).is_dir() else source


def load_processor(source: str) -> "AnyModalityProcessor":
    """The processor of a checkpoint; ValueError if it is another model's."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(source)
    if not hasattr(processor, "encode_chat"):
        raise ValueError(
            f"{source} is not a transformers-anymodality checkpoint, but has a {type(processor).__name__}."
        )
    return processor


def load_model(source: str, dtype: str = "auto", device: str | None = None) -> "AnyModalityForCausalLM":
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


def sampling(
    model: "AnyModalityForCausalLM", max_new_tokens: int | None, temperature: float | None, seed: int | None
) -> dict[str, Any]:
    """Arguments of `generate`: what the checkpoint's generation config says, where nothing was chosen. Sets the seed."""
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
    """Prints for people, and nothing that a terminal would obey: file names, data and answers are anybody's."""
    from transformers_anymodality.utils.printing import visible

    print(visible(text), **settings)


def print_json(document: Any) -> None:
    from transformers_anymodality.utils.printing import as_json

    print(as_json(document))
