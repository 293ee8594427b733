"""Peak memory of a training step with a large vocabulary, against Transformers' LLaVA class with the same weights; and peak
memory of loading a checkpoint, against its weights.

Each step runs in its own process, whose largest resident size is read before and after.

    python -m benchmarks.memory [--quick]
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

from . import _models as models
from ._ratio import Effort, Result, main


def measure(effort: Effort) -> Iterator[Result]:
    for words, limit in ((32_000, 0.5), (128_000, 0.1)) if effort.largest else ((32_000, 0.5),):
        with tempfile.TemporaryDirectory() as name:
            _prepare(Path(name), models.Sizes(words=1000 if effort.tiny else words), rows=2 if effort.tiny else 8)
            found = {side: _in_process("step", name, side) for side in ("ours", "theirs")}
        if abs(found["ours"]["told"] - found["theirs"]["told"]) > 1e-3:
            raise ValueError("Both sides must have the same loss before their memory is compared.")
        ratio = _grown(found["ours"]) / max(_grown(found["theirs"]), 1)
        note = f"{_grown(found['ours']):,.0f} MB against {_grown(found['theirs']):,.0f} MB"
        yield Result(4, f"memory of a training step, {words:,} words", "LLaVA", [ratio], limit, note=note)
    if not effort.largest:
        return
    sizes = models.sized(models.Sizes(768, 16, 16000, 256, 4, side=112, patch=14), effort)
    with tempfile.TemporaryDirectory() as name:
        for kind, size in (("tiny", models.TINY), ("ours", sizes)):
            models.composite(size)[0].save_pretrained(Path(name) / kind)
        found = _in_process("load", name, "ours")
    note = f"{found['told']:,.0f} MB of weights"
    yield Result(12, "peak memory of loading", "weights", [_grown(found) / found["told"]], 1.05, note=note)


def _grown(found: dict[str, float]) -> float:
    return found["peak"] - found["before"]


def _in_process(what: str, *words: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.memory", what, *words]
    root = Path(__file__).parents[1]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=root)
    return json.loads(run.stdout.splitlines()[-1])


def _prepare(folder: Path, sizes: models.Sizes, rows: int, length: int = 512, answer: int = 32) -> None:
    """Writes both models, and a batch of prompts with an image and answers of different lengths, to files."""
    ours, _ = models.composite(sizes)
    models.llava(ours, sizes).save_pretrained(folder / "theirs")
    ours.save_pretrained(folder / "ours")
    batch = models.batch(ours, sizes, rows, text=length - sizes.image_tokens - 1)
    labels = torch.full_like(batch["input_ids"], -100)
    for row in range(rows):  # answers end where the row's padding begins
        end = length - 7 * row
        labels[row, end - answer : end] = batch["input_ids"][row, end - answer : end]
    save_file({**batch, "labels": labels}, folder / "batch.safetensors")


def _step(folder: str, side: str) -> tuple[float, float]:
    """Only the aligner is trained. The largest size before the step, and the loss."""
    cls: Any = AutoModelForCausalLM if side == "ours" else LlavaForConditionalGeneration
    model = cls.from_pretrained(Path(folder) / side, dtype=torch.float32).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("image_aligner.", "model.multi_modal_projector.")))
    batch = load_file(Path(folder) / "batch.safetensors")
    before = _largest()
    as_trainer = {"skip_logits": True} if side == "ours" else {}  # as with the collator and the Trainer
    loss = model(**batch, **as_trainer).loss
    loss.backward()
    return before, float(loss)


def _load(folder: str, side: str) -> tuple[float, float]:
    """The largest size before loading, and the megabytes of the weights, all of which are read.

    A tiny model is loaded before. It imports the same classes, whose code is not counted.
    """
    AutoModelForCausalLM.from_pretrained(Path(folder) / "tiny")
    before = _largest()
    model = AutoModelForCausalLM.from_pretrained(Path(folder) / side)
    sizes = [weight.nbytes for weight in model.parameters() if weight.sum().isfinite()]
    return before, sum(sizes) / 1e6


def _largest() -> float:
    """Peak memory of this process so far, in MB. Not `ru_maxrss`, which a process inherits from its parent."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    if sys.argv[1:2] in (["step"], ["load"]):
        torch.set_num_threads(1)
        import transformers_anymodality  # noqa: F401 (registers the composite)

        before, told = {"step": _step, "load": _load}[sys.argv[1]](*sys.argv[2:])
        print(json.dumps({"before": before, "peak": _largest(), "told": told}))
    else:
        main(__doc__ or "", measure)
