"""A folder that runs the page as a Space of the Hugging Face Hub."""

import importlib.util
import json
import shutil
from importlib import metadata
from importlib.machinery import ModuleSpec
from itertools import count
from pathlib import Path

from huggingface_hub import SpaceCardData

from anymodality.plain.printing import in_markdown

from ... import __version__
from ...processing.chat import parts_of
from ...utils.files import json_lines
from .examples import file_of, read_chats


_APP = '''"""Chat with a model, with media."""

import os

import torch
import transformers_anymodality  # registers everything with the Auto classes
from transformers import AutoModelForCausalLM, AutoProcessor
from transformers_anymodality.inference.demo import build_page, launch
{imports}

# A variable of the Space may name another model.
MODEL = os.environ.get("MODEL_ID", {model})

device = "cuda" if torch.cuda.is_available() else "cpu"
page = build_page(
    AutoModelForCausalLM.from_pretrained(MODEL, dtype="auto").to(device).eval(),
    AutoProcessor.from_pretrained(MODEL),
    name=MODEL,
{settings})

if __name__ == "__main__":
    launch(page)
'''

_README = """
Chat with {name}, with media: attach files, ask, and ask again.

It runs on this Space only and stores nothing: uploads are deleted within a day. Set the Space's variable `MODEL_ID` to
use another model.
"""


def export_space(
    model: str,
    folder: str | Path,
    *,
    system_prompt: str | None = None,
    examples: str | Path | None = None,
    module: str | None = None,
) -> list[Path]:
    """Writes `app.py`, `requirements.txt`, `README.md`, and the examples with their media; returns these files.

    Args:
        model: Hub id, or a local folder to try the page with (on the Space, its variable `MODEL_ID` names the model).
        folder: new, or empty.
        system_prompt: the chat's system prompt.
        examples: JSONL of chats, as in `build_page`.
        module: module that registers your own modalities and towers; its file or package is copied, too.

    Raises:
        FileExistsError: `folder` is not empty.
        ModuleNotFoundError: `module` was not found.
    """
    folder, local = Path(folder), Path(model).is_dir()
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: choose another folder.")
    spec = None if module is None else importlib.util.find_spec(module.partition(".")[0])
    if module is not None and (spec is None or spec.name == "app"):
        raise ModuleNotFoundError(f"Module {module!r} was not found: it must be importable, and must not be `app`.")
    model = str(Path(model).resolve()) if local else model
    card = SpaceCardData(
        title=Path(model).name,
        emoji="🎛️",
        colorFrom="indigo",
        colorTo="blue",
        sdk="gradio",
        sdk_version=metadata.version("gradio"),
        app_file="app.py",
        models=None if local else [model],
        tags=["anymodality"],
    )
    folder.mkdir(parents=True, exist_ok=True)
    if examples is not None:
        _copy_examples(Path(examples), folder)
    if spec is not None:
        _copy_module(spec, folder)
    settings = {"system_prompt": system_prompt, "examples": None if examples is None else "examples.jsonl"}
    lines = (f"    {key}={json.dumps(value)},\n" for key, value in settings.items() if value is not None)
    written = {
        "app.py": _APP.format(
            model=json.dumps(model),
            settings="".join(lines),
            imports="" if module is None else f"\nimport {module}  # modalities and towers of our own\n",
        ),
        "requirements.txt": f"transformers-anymodality[image,audio,video,signal,timm,demo]>={__version__}\n",
        "README.md": f"---\n{card.to_yaml()}\n---\n{_README.format(name=in_markdown(card.title if local else model))}",
    }
    for file, text in written.items():
        (folder / file).write_text(text, encoding="utf-8")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _copy_module(spec: ModuleSpec, folder: Path) -> None:
    name = spec.name
    if spec.submodule_search_locations:
        (place, *_) = spec.submodule_search_locations
        shutil.copytree(place, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(spec.origin, folder / f"{name}.py")


def _copy_examples(source: Path, folder: Path) -> None:
    """`examples.jsonl`, and its media in `media`."""
    (folder / "media").mkdir()
    chats, number = [], count()
    for chat in read_chats(source):
        messages = []
        for message in chat.messages:
            content = list(parts_of([message]))
            for i, part in enumerate(content):
                if path := file_of(part, chat.where):
                    content[i] = {"type": part["type"], "path": f"media/{next(number):03d}{path.suffix}"}
                    shutil.copyfile(path, folder / content[i]["path"])
            messages.append({**message, "content": content})
        chats.append({"messages": messages})
    (folder / "examples.jsonl").write_text(json_lines(chats), encoding="utf-8")
