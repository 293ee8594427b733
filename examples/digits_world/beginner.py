"""A model that has only begun to tell digits apart, by image and IMU, for examples of what comes after."""

import argparse
import random
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoProcessor, Trainer, TrainingArguments, set_seed

from transformers_anymodality import AnyModalityDataCollator, compose, set_trainable

from . import parts
from .world import World, make_world


MODALITIES = ("image", "imu")
QUESTION = " which digit is this ?"
COUNTS = {"train": dict.fromkeys(MODALITIES, 480), "test": dict.fromkeys(MODALITIES, 120)}


def ask(modality: str, file: Path) -> list[dict]:
    """A chat without its answer."""
    content = [{"type": modality, "path": str(file)}, {"type": "text", "text": QUESTION}]
    return [{"role": "user", "content": content}]


def say(digit: int) -> list[dict]:
    return [{"role": "assistant", "content": [{"type": "text", "text": parts.NUMBERS[digit]}]}]


def draw(files: dict, rng: random.Random) -> tuple[list[dict], int]:
    """A question about a file, and its digit."""
    modality, digit = rng.choice(MODALITIES), rng.randrange(10)
    return ask(modality, rng.choice(files[modality][digit])), digit


def _make_part(task: tuple[str, dict | None, Path, int]) -> None:
    name, files, folder, steps = task
    torch.set_num_threads(1)  # parts are made side by side
    if name == "language_model":
        tokenizer = parts.make_tokenizer()
        parts.train_language_model(tokenizer, folder / "trainer", steps).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        return
    tower, _ = parts.train_tower(name, files, steps)
    tower.save_pretrained(folder / name)
    if name == "image":
        parts.image_processor().save_pretrained(folder / name)


def make_beginner(folder: Path, steps: int = 120, lessons: int = 9):
    """Model, processor and files, from `folder` if they are there.

    Args:
        steps: of training each part.
        lessons: steps of aligning. Few, so that there is something left to learn.
    """
    world: World = make_world(folder / "world", COUNTS)
    if not (folder / "model").exists():
        set_seed(0)
        names = [name for name in ("language_model", *MODALITIES) if not (folder / name).exists()]
        tasks = [(name, world["train"].get(name), folder, steps) for name in names]
        # Not forked: this process may have trained before, and torch's threads do not outlive a fork.
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            list(tqdm(pool.map(_make_part, tasks), total=len(tasks), desc="parts"))
        model, processor = compose(
            language_model=str(folder / "language_model"),
            modalities={
                "image": {"tower": str(folder / "image"), "aligner": "linear", "num_tokens": 1},
                "imu": {"tower": str(folder / "imu"), "aligner": "linear", "num_tokens": 1, "sampling_rate": 64},
            },
        )
        set_trainable(model, "aligners", verbose=False)
        rng = random.Random(1)
        asked = [draw(world["train"], rng) for _ in range(32 * lessons)]
        arguments = TrainingArguments(
            str(folder / "trainer"), num_train_epochs=1, per_device_train_batch_size=32, learning_rate=5e-3, seed=0,
            remove_unused_columns=False, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        samples = [{"messages": [*question, *say(digit)]} for question, digit in asked]
        Trainer(model, arguments, AnyModalityDataCollator(processor), samples).train()
        model.save_pretrained(folder / "model", processor=processor)
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    return model, AutoProcessor.from_pretrained(folder / "model"), world


def options(description: str, arguments: list[str] | None) -> argparse.Namespace:
    """The options that the examples have in common."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/begun"), help="folder for all that is made")
    parser.add_argument("--steps", type=int, default=24, help="number of training steps")
    return parser.parse_args(arguments)


def show(heading: str, results: dict[str, list[float]]) -> None:
    """Prints each result before and after the training."""
    print(f"\n{heading}")
    for name, values in results.items():
        print(f"{name:<34}" + "".join(f"{value:9.2f}" for value in values))


@torch.no_grad()
def answers(model, processor, questions: list[list[dict]]) -> list[str]:
    """Greedy answers of the model."""
    model.eval()
    inputs = processor.apply_chat_template(
        questions, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    output = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    return processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def accuracy(model, processor, files: dict) -> dict[str, float]:
    """Modality -> the share of right answers about files."""
    found = {}
    for modality in MODALITIES:
        asked = [(ask(modality, file), digit) for digit, own in files[modality].items() for file in own]
        said = answers(model, processor, [question for question, _ in asked])
        right = [one == parts.NUMBERS[digit] for one, (_, digit) in zip(said, asked, strict=True)]
        found[modality] = sum(right) / len(right)
    return found
