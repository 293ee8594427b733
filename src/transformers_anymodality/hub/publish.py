"""Publishes model, processor and card in one commit, after a fresh process has loaded the files."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoProcessor, BatchFeature, PreTrainedModel

from anymodality.plain.files import read_json
from anymodality.plain.inspection import Inspection
from anymodality.plain.printing import size

from ..modalities import MODALITIES
from ..model.remote_code import CONFIG_AUTO_MAP, MODULE, PROCESSOR_AUTO_MAP, write_module
from ..processing.processor import AnyModalityProcessor
from ..utils.files import write_json
from ..utils.hub import is_hub_id
from ..utils.tensors import in_eval
from . import make_card
from .history import data_name
from .inspect import inspect_checkpoint


# Files of a training that are not part of the model: states of optimizers and loaders (pickled), the Trainer's state (names
# folders of this machine), logs, and checkpoints (models by themselves).
_LEFT_OUT = ("checkpoint-*", "runs", "logs", "wandb", "*.bin", "*.pt", "*.pth", "*.pkl", "*.log", "*.samples") + (
    (".*", "__pycache__", "*.partial", "global_step*", "latest", "trainer_state.json")
)


@dataclass(frozen=True)
class Upload:
    """What goes to the Hub.

    Args:
        repo_id: repository.
        files: path in the repository -> bytes.
        left_out: files of the folder that are not uploaded.
        difference: largest difference of a logit between the model and the one that a fresh process loaded.
        url: of the commit; None for a dry run.
    """

    repo_id: str
    files: dict[str, int]
    left_out: list[str]
    difference: float
    url: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "bytes": sum(self.files.values())}

    def __str__(self) -> str:
        width = max(map(len, self.files))
        lines = [f"  {name:<{width}}  {size(count):>12}" for name, count in self.files.items()]
        if self.left_out:
            lines.append(f"  left out: {', '.join(self.left_out)}")
        total = f"{len(self.files)} files, {size(sum(self.files.values()))}"
        checked = f"a fresh process loaded them, logits within {self.difference:.1e}"
        done = f"published as {self.url}" if self.url else "a dry run: nothing was uploaded"
        return "\n".join([f"{self.repo_id}: {total}; {checked}; {done}", *lines])


def publish(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    model: Any = None,
    module: str | None = None,
    dry_run: bool = False,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    commit_description: str | None = None,
    card: dict[str, Any] | None = None,
) -> Upload:
    """Uploads a checkpoint's folder in one commit, if it is complete.

    Args:
        folder: model and processor, full or light; a card is added where there is none.
        repo_id: "org/name"; created if it does not exist.
        model: the model in memory that was saved into the folder. Default: the folder's own.
        module: registers modalities and towers of your own. Users of the checkpoint need it too.
        dry_run: do all but upload.
        private, token, revision, create_pr, commit_message, commit_description: as `HfApi.upload_folder`.
        card: arguments of `make_card`, for the card that is added.

    Raises:
        ValueError: the checkpoint is incomplete, or the model that a fresh process loads gives other logits; nothing was
            uploaded.
        OSError: the Hub refuses, or cannot be reached.
    """
    folder = Path(folder)
    found = _check_whole(folder)
    with tempfile.TemporaryDirectory() as scratch:
        stage = Path(scratch, "stage")
        left_out = _link(folder, stage)
        _complete(stage, folder, repo_id, {"name": repo_id, "inspection": found, **(card or {})})
        difference = check_reload(folder if model is None else model, stage, Path(scratch), module, token)
        sizes = {
            str(file.relative_to(stage)): file.stat().st_size for file in sorted(stage.rglob("*")) if file.is_file()
        }
        if dry_run:
            return Upload(repo_id, sizes, left_out, difference)
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        try:
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=stage,
                revision=revision,
                create_pr=create_pr,
                commit_message=commit_message or "Upload model, processor and card",
                commit_description=commit_description,
            )
        except RuntimeError as error:  # the client raises this for any failure of a large file
            raise OSError(f"{error} Nothing was committed; try again. ({error.__cause__})") from error
    return Upload(repo_id, sizes, left_out, difference, commit.pr_url or commit.commit_url)


def push_to_hub(
    model: PreTrainedModel, repo_id: str, *, processor: Any = None, tags=None, max_shard_size=None, **kwargs
) -> str:
    """As `PreTrainedModel.push_to_hub`, with processor and card in the same commit; before that, a fresh process loads
    what is to be uploaded and compares logits (see `publish`). Returns the commit's URL.

    Args:
        processor: the model's; that of the checkpoint it was loaded from if left out.
        tags: for the card.
        kwargs: `private`, `token`, `revision`, `create_pr`, `commit_message`, `commit_description`.
    """
    if processor is None:
        try:
            processor = AutoProcessor.from_pretrained(model.name_or_path)
        except (OSError, ValueError) as error:
            raise ValueError("The model's processor was not found: pass it as processor=...") from error
    sharding = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, **sharding)
        processor.save_pretrained(folder)
        return publish(folder, repo_id, model=model, card={"tags": tags or ()}, **kwargs).url


def _check_whole(folder: Path) -> Inspection:
    """Raises ValueError if a trained part would be missing, or others could not load a part."""
    if (folder / "adapter_config.json").exists():
        raise ValueError(
            f"{folder} holds an adapter, which needs the model it was trained on. Merge it and push the "
            "result: PeftModel.from_pretrained(model, folder).merge_and_unload().save_pretrained(merged)"
        )
    for name, what in (("config.json", "model"), ("processor_config.json", "processor")):
        if not (folder / name).exists():
            raise ValueError(f"{folder} has no {name}: save the {what} there, too ({what}.save_pretrained).")
    found = inspect_checkpoint(folder)
    if lost := [part.name for part in found.parts if part.trained and not (part.referenced or part.parameters)]:
        raise ValueError(f"{', '.join(lost)} was trained, but is not in {folder}: save the model again.")
    for part in found.parts:
        if part.referenced and not (is_hub_id(part.source) and part.revision):
            raise ValueError(
                f"`{part.name}` of this light checkpoint is kept at {part.source}, which others cannot load"
                f"{'' if is_hub_id(part.source) else ': it is not a repository on the Hub'}. Save it in full."
            )
    return found


def _link(folder: Path, stage: Path) -> list[str]:
    """Makes `stage` a copy of the folder, of links to its files; returns what of the folder is left out."""
    unwanted, left_out = shutil.ignore_patterns(*_LEFT_OUT), set()

    def ignored(place: str, names: list[str]) -> set[str]:
        found = unwanted(place, names)
        left_out.update(found)
        return found

    shutil.copytree(folder.resolve(), stage, ignore=ignored, copy_function=os.symlink)
    return sorted(left_out)


def _complete(stage: Path, folder: Path, repo_id: str, card: dict[str, Any]) -> None:
    """Adds what older checkpoints lack (the remote-code module, a card), and removes paths of this machine. The folder
    itself does not change."""
    if not (stage / f"{MODULE}.py").exists():
        write_module(stage)
    if not (stage / "README.md").exists():
        (stage / "README.md").write_text(f"{make_card(folder, **card)}\n", encoding="utf-8")
    sources = {"_name_or_path": lambda source: source if is_hub_id(source) else ""}
    for name, public, own in (
        ("config.json", sources, {"auto_map": CONFIG_AUTO_MAP}),
        ("processor_config.json", sources, {"auto_map": PROCESSOR_AUTO_MAP}),
        ("results.json", {"model": lambda source: repo_id, "data": data_name}, {}),
    ):
        file = stage / name
        found = read_json(file) if file.exists() else None
        if isinstance(found, dict) and (changed := {**_changed(found, public), **own}) != found:
            file.unlink()
            write_json(file, changed, sort_keys=True)


def _changed(document: Any, public: Mapping[str, Callable[[Any], str]]) -> Any:
    """A JSON document whose values, at any depth, are replaced by what the functions in `public` return for their keys."""
    if isinstance(document, list):
        return [_changed(one, public) for one in document]
    if not isinstance(document, dict):
        return document
    return {key: public[key](value) if key in public else _changed(value, public) for key, value in document.items()}


# --- reloading -----------------------------------------------------------------------------------------------------


_FRESH = """\
import importlib
import sys
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoProcessor

stage, scratch, device, *modules = sys.argv[1:]
for module in modules:
    importlib.import_module(module)
processor = AutoProcessor.from_pretrained(stage, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(stage, dtype="auto", trust_remote_code=True).to(device).eval()
inputs = {name: tensor.to(device) for name, tensor in load_file(f"{scratch}/inputs.safetensors").items()}
with torch.no_grad():
    logits = model(**inputs).logits
save_file({"logits": logits.float().cpu().contiguous()}, f"{scratch}/logits.safetensors")
"""


def check_reload(
    model: Any, stage: Path, scratch: Path, module: str | None = None, token: str | bool | None = None
) -> float:
    """Loads `stage` in a fresh process that does not import this package, and compares logits on a dummy input of
    every modality. Returns the largest difference of a logit.

    Args:
        model: the composite, or the folder that it is in.
        stage: what is to be uploaded.
        scratch: folder for inputs and logits.
        module: that the fresh process does import.
        token: for parts of light checkpoints that are private.

    Raises:
        ValueError: it does not load, or logits differ.
    """
    inputs = dummy_inputs(AutoProcessor.from_pretrained(stage))
    if isinstance(model, Path):
        model = AutoModelForCausalLM.from_pretrained(model, dtype="auto", token=token)
        model.to("cuda" if torch.cuda.is_available() else "cpu")
    device, dtype = model.device, model.dtype
    with torch.no_grad(), in_eval(model):
        ours = model(**inputs.to(device)).logits.float().cpu()
    del model
    save_file({name: tensor.cpu().contiguous() for name, tensor in inputs.items()}, scratch / "inputs.safetensors")
    command = [sys.executable, "-c", _FRESH, str(stage), str(scratch), str(device), *([module] if module else [])]
    own = {"HF_MODULES_CACHE": str(scratch / "modules"), **({"HF_TOKEN": token} if isinstance(token, str) else {})}
    run = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True)
    if run.returncode:
        problem = run.stderr[-3000:].strip()
        raise ValueError(f"Nothing was uploaded, because a new process cannot load the checkpoint:\n{problem}")
    theirs = load_file(scratch / "logits.safetensors")["logits"]
    difference = (ours - theirs).abs().max().item() if ours.shape == theirs.shape else float("inf")
    allowed = {torch.float32: 1e-4}.get(dtype, 2e-2) * max(1.0, ours.abs().max().item())
    if not difference <= allowed:
        raise ValueError(
            f"Nothing was uploaded, because a new process gets other logits (they differ by {difference:.1e}): something "
            "that was trained is missing from the folder. Save the model again."
        )
    return difference


def dummy_inputs(processor: AnyModalityProcessor) -> BatchFeature:
    """A prompt with a dummy item of every modality."""
    media = {}
    for name, own in processor.modalities.items():
        spec = MODALITIES[name]
        media[spec.argument] = [spec.dummy(processor.sub_processor(name), own.options, 0)]
    placeholders = [own.token for own in processor.modalities.values()]
    return processor(text=" ".join([*placeholders, "What is this?"]), return_tensors="pt", **media)
