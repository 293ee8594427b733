"""Recordings of original code: weights in the released layout, inputs, and what came out of it.

Any recording of the same layout is read: of other sizes, with fewer or more cases. What it holds is compared; what it
lacks is not asked for.
"""

import importlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM


class Recording:
    """One folder: its config, inputs and outputs, and how ours compares with each of these."""

    def __init__(self, folder: Path):
        self.folder, self.name = folder, folder.name
        self.config = json.loads((folder / "config.json").read_text())
        self.inputs, self.outputs = (load_file(folder / f"{part}.safetensors") for part in ("inputs", "outputs"))
        self.rows: dict[str, tuple] = {}
        self.wrong: list[str] = []

    def weights(self, name: str) -> dict[str, torch.Tensor] | None:
        """The tensors of a file by its stem; None if there is no such file."""
        file = self.folder / f"{name}.safetensors"
        return load_file(file) if file.is_file() else None

    def check(self, name: str, ours: torch.Tensor, atol: float = 1e-4, rtol: float = 1e-4) -> None:
        """Compares ours with the recorded tensor of that name, whose shape may be folded otherwise, if there is one."""
        if (theirs := self.outputs.get(name)) is None:
            return
        self.rows[name] = (self.name, name, float("inf"), float("inf"), "")
        if ours.numel() != theirs.numel():
            self.wrong.append(f"{name} has shape {tuple(ours.shape)}, recorded is {tuple(theirs.shape)}")
            return
        ours, theirs = ours.detach().reshape(theirs.shape).double(), theirs.double()
        largest = (ours - theirs).abs().max().item() if theirs.numel() else 0.0
        relative = largest / max(theirs.abs().max().item(), 1e-30) if theirs.numel() else 0.0
        self.rows[name] = (self.name, name, largest, relative, "")
        if not torch.allclose(ours, theirs, atol=atol, rtol=rtol):
            self.wrong.append(f"{name} differs by {largest:.1e}")

    def check_every(self, name: str, ours: torch.Tensor, first: int = 0, **tolerance: float) -> None:
        """Compares every n-th pixel of the last two axes, from `first` on, with the tensors called `<name><n>`."""
        for recorded in self.outputs:
            if step := re.fullmatch(re.escape(name) + r"(\d+)", recorded):
                self.check(recorded, ours[..., first :: int(step[1]), first :: int(step[1])], **tolerance)

    def replay(self, conversion: str, model: Any, *args: Any, **tolerance: float) -> None:
        """Compares all that `replays/<conversion>.py` has the converted model give."""
        module = importlib.import_module(f"modeling_tests.parity.replays.{conversion}")
        for name, ours in module.replay(model, self, *args):
            self.check(name, ours, **tolerance)

    def skip(self, pattern: str, reason: str) -> None:
        """Says why recorded tensors, by a regular expression for their names, are not compared."""
        for name in set(self.outputs) - set(self.rows):
            if re.fullmatch(pattern, name):
                self.rows[name] = (self.name, name, None, None, reason)

    def finish(self) -> None:
        """Fails for a tensor that differs, for one that was neither compared nor skipped, and if none was compared."""
        left = sorted(set(self.outputs) - set(self.rows))
        assert not self.wrong, "; ".join(self.wrong)
        assert not left, f"{self.name}: recorded, but not compared: {', '.join(left)}"
        assert any(reason == "" for *_, reason in self.rows.values()), f"{self.name}: nothing was compared"


def write_release(folder: Path, config: dict[str, Any], **files: dict[str, torch.Tensor]) -> Path:
    """A folder as it could have been released: `config.json` and a file of tensors by each stem."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    for stem, tensors in files.items():
        save_file(tensors, folder / f"{stem}.safetensors")
    return folder


def load_converted(folder: Path) -> Any:
    """The converted model in float32, with its adapter if it has one."""
    whole = (folder / "generation_config.json").is_file()
    model = (AutoModelForCausalLM if whole else AutoModel).from_pretrained(folder, dtype=torch.float32).eval()
    if (folder / "adapter").is_dir():
        model.load_adapter(str(folder / "adapter"))
    return model


# --- what a model does on the way ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One run of a module: what it was given, and what it gave."""

    args: tuple
    kwargs: dict[str, Any]
    output: Any

    @property
    def states(self) -> torch.Tensor:
        """The output, or the hidden states in it."""
        return getattr(self.output, "last_hidden_state", self.output)


@contextmanager
def watch(**modules: nn.Module | None) -> Iterator[dict[str, Call]]:
    """The last run of each of these modules, by name; those that are None or do not run are not in it."""
    seen: dict[str, Call] = {}

    def hook(name: str) -> Callable:
        return lambda module, args, kwargs, output: seen.update({name: Call(args, kwargs, output)})

    handles = [
        module.register_forward_hook(hook(name), with_kwargs=True)
        for name, module in modules.items()
        if module is not None
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def media_inputs(model: Any, media: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Media by modality as arguments of the model: each as the first of its modality's inputs."""
    return {model.config.modalities[modality].main_input: values for modality, values in media.items()}


def placeholder(model: Any, modality: str) -> int:
    return getattr(model.config, f"{modality}_token_id")


@torch.no_grad()
def run(model: Any, **arguments: Any) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """The embeddings that the language model reads `(batch, length, hidden)`, which places of them it sees
    `(batch, length)` bool, and the output."""
    with watch(language=model.language_model) as seen:
        output = model(**arguments, output_hidden_states=True)
    embeds, mask = output.hidden_states[0], seen["language"].kwargs.get("attention_mask")
    return embeds, torch.ones(embeds.shape[:2], dtype=torch.bool) if mask is None else mask.bool(), output


@torch.no_grad()
def greedy(model: Any, count: int, *, pad: int, end: int | None, **inputs: Any) -> torch.Tensor:
    """`count` new tokens of each row `(batch, count)`, `pad` behind its `end`; with `end=None`, none ends."""
    model.generation_config.eos_token_id = end  # as an argument, None would mean the config's
    found = model.generate(**inputs, do_sample=False, max_new_tokens=count, pad_token_id=pad)
    found = found[:, inputs["input_ids"].shape[1] :]
    return nn.functional.pad(found, (0, count - found.shape[1]), value=pad)
