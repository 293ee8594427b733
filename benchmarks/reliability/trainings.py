"""Trainings: killed at random moments, and checkpoints in which a file is torn; both go on by `last_checkpoint`."""

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from modeling_tests import tiny
from modeling_tests.training_runs import trainer
from safetensors.torch import load_file

from transformers_anymodality import set_trainable
from transformers_anymodality.training.checkpoints import last_checkpoint

from .attack import Attack, Outcome, in_child, killed


STEPS = 6  # 8 samples, two a step: the second epoch has begun


class Trainings(Attack):
    """A run with a checkpoint after each step, and the weights at its end. Each run is a child process, and so begins with
    the same model."""

    def prepare(self, folder: Path) -> None:
        self.folder = folder
        self.model, self.processor = tiny.composite(settings=tiny.modalities("image", "audio", "imu"))
        set_trainable(self.model, ["aligners", "language_model"], verbose=False)
        started = time.perf_counter()
        if error := in_child(lambda: self.train(folder / "right"), folder / "log"):
            raise RuntimeError(error)
        self.seconds = time.perf_counter() - started

    def train(self, output: Path, resume: str | None = None) -> None:
        run: Any = trainer(self.model, self.processor, output, max_steps=STEPS, save_strategy="steps", save_steps=1)
        run.train(resume_from_checkpoint=resume)

    def goes_on(self, output: Path) -> str:
        """What differs from a run that nothing befell, or ""."""
        if error := in_child(lambda: self.train(output, last_checkpoint(output)), self.folder / "log"):
            return error[-500:]
        found, right = (
            load_file(place / f"checkpoint-{STEPS}" / "model.safetensors") for place in (output, self.folder / "right")
        )
        same = found.keys() == right.keys() and all(torch.equal(found[name], right[name]) for name in right)
        return "" if same else "other weights"


class KilledTrainings(Trainings):
    name = "Training: killed (SIGKILL) at random moments, then resumed, compared bit by bit"
    full = 10

    def attempt(self, rng: random.Random) -> Outcome:
        output = self.folder / "tried"
        shutil.rmtree(output, ignore_errors=True)
        killed(lambda: self.train(output), rng.uniform(0.2, 1) * self.seconds)
        error = self.goes_on(output)
        return Outcome(not error, "equal", error)


class TornCheckpoints(Trainings):
    name = (
        "Training: the newest checkpoint torn (a file cut, empty, missing, a bit of the weights flipped), then resumed"
    )
    full = 30

    def attempt(self, rng: random.Random) -> Outcome:
        output = self.folder / "tried"
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(self.folder / "right", output)
        shutil.rmtree(output / f"checkpoint-{STEPS}")
        newest = output / f"checkpoint-{STEPS - 1}"
        files = [file for file in newest.iterdir() if file.suffix in (".json", ".safetensors", ".pt", ".pth")]
        file, damage = rng.choice(sorted(files)), rng.choice(("cut", "empty", "missing", "flipped"))
        if damage == "flipped":  # in other files some bits have no meaning
            file = newest / "model.safetensors"
        whole = file.read_bytes()
        place = rng.randrange(len(whole.rstrip()))  # without a line's end, a file is still whole
        match damage:
            case "cut":
                file.write_bytes(whole[:place])
            case "empty":
                file.write_bytes(b"")
            case "missing":
                file.unlink()
            case "flipped":
                file.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << rng.randrange(8))]) + whole[place + 1 :])
        passed = last_checkpoint(output) == str(output / f"checkpoint-{STEPS - 2}")
        error = self.goes_on(output)
        return Outcome(passed and not error, "equal", f"{file.name} {damage}: {error or 'not seen'}")


ATTACKS: list[Callable[[], Attack]] = [KilledTrainings, TornCheckpoints]
