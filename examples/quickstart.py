"""Teach a small language model six modalities of a digit, on a CPU, in minutes.

    python examples/quickstart.py [--output outputs/quickstart]

The way is the usual one, only small: towers and a language model (trained here, then frozen) are composed; the
aligners are trained (stage 1), then aligners and LoRA (stage 2); the result is saved, loaded in a new process by the
Auto classes, and asked about digits of writers and speakers that it has never met.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch
from digits_world import page, parts
from digits_world.world import MODALITIES, make_world
from peft import get_peft_model
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoProcessor, Trainer, TrainingArguments, set_seed

import transformers_anymodality
from transformers_anymodality import AnyModalityDataCollator, compose, lora_config, set_trainable


TOWER_STEPS = {"image": 350, "depth": 350, "thermal": 350, "audio": 350, "imu": 400}
QUESTION = "which digit is this ?"


# --- parts: stand-ins for what you would take from the Hub -------------------------------------------------------------


def make_part(task: tuple[str, dict, Path]) -> str:
    """Trains one tower, or the language model, and saves it with its processor as any checkpoint."""
    name, files, folder = task
    torch.set_num_threads(1)  # parts are made side by side
    if name == "language_model":
        tokenizer = parts.make_tokenizer()
        parts.train_language_model(tokenizer, folder / "trainer", steps=500).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        return f"{name}: trained on text"
    tower, accuracy = parts.train_tower(name, files, TOWER_STEPS[name])
    tower.save_pretrained(folder / name)
    if name != "imu":
        processor = parts.feature_extractor() if name == "audio" else parts.image_processor()
        processor.save_pretrained(folder / name)
    return f"{name} tower: {accuracy:.0%} of its training batches right"


def make_parts(world: dict, folder: Path) -> None:
    names = ["language_model", *TOWER_STEPS]
    tasks = [(name, world["train"].get(name), folder) for name in names]
    with ProcessPoolExecutor(os.cpu_count(), initializer=be_quiet) as pool:
        for made in as_completed([pool.submit(make_part, task) for task in tasks]):
            print("  " + made.result(), flush=True)


def be_quiet() -> None:
    """For processes side by side, whose progress bars would overwrite each other."""
    sys.stdout = sys.stderr = open(os.devnull, "w")


# --- composing ---------------------------------------------------------------------------------------------------------


def compose_modalities(folder: Path):
    """Six modalities; the video modality borrows the image tower."""
    return compose(
        language_model=str(folder / "language_model"),
        modalities={
            "image": {"tower": str(folder / "image"), "aligner": "linear", "num_tokens": 1},
            "video": {"tower": "image", "aligner": "linear", "num_tokens": 2, "num_frames": 6},
            "audio": {"tower": str(folder / "audio"), "aligner": "linear", "num_tokens": 1},
            "imu": {"tower": str(folder / "imu"), "aligner": "linear", "num_tokens": 1, "sampling_rate": 64},
            "depth": {"tower": str(folder / "depth"), "aligner": "linear", "num_tokens": 1},
            "thermal": {"tower": str(folder / "thermal"), "aligner": "linear", "num_tokens": 1},
        },
    )


# --- data: chats with files in them ------------------------------------------------------------------------------------


def ask(files: dict, modalities: list[str], rng: random.Random) -> dict:
    """A chat about one or two items: `{"messages": [...]}`."""
    digits = [rng.randrange(10) for _ in modalities]
    content = [{"type": s, "path": str(rng.choice(files[s][d]))} for s, d in zip(modalities, digits, strict=True)]
    question = QUESTION if len(modalities) == 1 else parts.sum_question(*modalities)
    answer = parts.NUMBERS[sum(digits)]
    return {
        "messages": [
            {"role": "user", "content": [*content, {"type": "text", "text": f" {question}"}]},
            {"role": "assistant", "content": answer},
        ]
    }


def chats(files: dict, count: int, share_of_sums: float, seed: int) -> list[dict]:
    rng = random.Random(seed)
    modalities = [rng.sample(MODALITIES, 2 if rng.random() < share_of_sums else 1) for _ in range(count)]
    return [ask(files, chosen, rng) for chosen in modalities]


# --- training ----------------------------------------------------------------------------------------------------------


def train(
    model,
    processor,
    samples: list[dict],
    output: Path,
    learning_rate: float = 5e-3,
    features=None,
    trainer=None,
    **more,
) -> list[dict]:
    """One pass over `samples` with the stock Trainer; `more` of its `TrainingArguments` go first. Returns its log.

    With `features`, a `FeatureStore`, media that are in it are not read and run through their towers again. `trainer` has
    arguments of the Trainer itself, such as callbacks or another collator.
    """
    arguments = {
        "num_train_epochs": 1,
        "per_device_train_batch_size": 32,
        "learning_rate": learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 20,
        "logging_steps": 20,
        "dataloader_num_workers": 1,  # reads files while the model computes
        "remove_unused_columns": False,  # samples are raw chats; the collator makes batches of them
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "seed": 0,
        "disable_tqdm": not sys.stderr.isatty(),
    }
    run = Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(output), **{**arguments, **more}),
        train_dataset=samples,
        processing_class=processor,
        **{"data_collator": AnyModalityDataCollator(processor, features=features), **(trainer or {})},
    )
    run.train()
    return [entry for entry in run.state.log_history if "loss" in entry]


def align(model, processor, world: dict, output: Path) -> tuple[list[dict], str]:
    """Stage 1: aligners alone learn to speak to a frozen language model."""
    table = set_trainable(model, "aligners")
    samples = chats(world["train"], 32 * 450, share_of_sums=0.3, seed=1)
    return train(model, processor, samples, output / "align"), table


def instruct(model, processor, world: dict, output: Path):
    """Stage 2: aligners go on, and LoRA lets the language model come to meet them. Returns the merged model and log."""
    adapted = get_peft_model(model, lora_config(model, r=8))
    adapted.print_trainable_parameters()
    samples = chats(world["train"], 32 * 200, share_of_sums=0.6, seed=2)
    log = train(adapted, processor, samples, output / "instruct", learning_rate=2e-3)
    return adapted.merge_and_unload(), log


# --- answering, in a new process ---------------------------------------------------------------------------------------


def answer(model_folder: Path, questions_file: Path, answers_file: Path) -> None:
    """Loads the model as anyone would, and answers."""
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    processor = AutoProcessor.from_pretrained(model_folder)
    samples = json.loads(questions_file.read_text())
    answers = []
    for start in tqdm(range(0, len(samples), 60), desc="answer", disable=None):
        conversations = [sample["messages"][:1] for sample in samples[start : start + 60]]
        inputs = processor.apply_chat_template(
            conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        output = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        answers += processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    answers_file.write_text(json.dumps([text.strip() for text in answers]))


def examine(world: dict, output: Path) -> tuple[list[dict], list[str]]:
    """Questions on the test split, and the answers of a new process."""
    rng = random.Random(3)
    samples = [ask(world["test"], [modality], rng) for modality in MODALITIES for _ in range(240)]
    samples += [ask(world["test"], rng.sample(MODALITIES, 2), rng) for _ in range(360)]
    questions_file, answers_file = output / "questions.json", output / "answers.json"
    questions_file.write_text(json.dumps(samples))
    command = [sys.executable, __file__, "--answer", str(output / "model"), str(questions_file), str(answers_file)]
    subprocess.run(command, check=True)
    return samples, json.loads(answers_file.read_text())


def score(samples: list[dict], answers: list[str], tokens: dict[str, int]) -> dict:
    """Share of right answers, per modality and for sums."""
    right: dict[str, list[bool]] = {}
    for sample, given in zip(samples, answers, strict=True):
        modalities = [part["type"] for part in sample["messages"][0]["content"] if part["type"] != "text"]
        name = modalities[0] if len(modalities) == 1 else "sums"
        right.setdefault(name, []).append(given == sample["messages"][1]["content"])
    accuracy = {name: sum(marks) / len(marks) for name, marks in right.items()}
    modalities = {s: {"accuracy": accuracy[s], "chance": 0.1, "tokens": tokens[s]} for s in MODALITIES}
    # The best blind guess at the sum of two digits is nine.
    return {"modalities": modalities, "sums": {"accuracy": accuracy["sums"], "chance": 0.1}}


def write_examples(file: Path, samples: list[dict], answers: list[str]) -> None:
    """One question of each modality that was answered rightly, for `anymodality demo --examples`."""
    chosen = {}
    for sample, answer in zip(samples, answers, strict=True):
        question, wanted = sample["messages"]
        media = [part for part in question["content"] if part["type"] != "text"]
        if len(media) == 1 and answer == wanted["content"]:
            content = [
                {**part, "path": os.path.relpath(part["path"], file.parent)} if "path" in part else part
                for part in question["content"]
            ]
            chosen.setdefault(media[0]["type"], {"messages": [{"role": "user", "content": content}]})
    file.write_text("".join(json.dumps(chat) + "\n" for chat in chosen.values()), encoding="utf-8")


def print_table(results: dict) -> None:
    print(f"\n{'modality':<10}{'test accuracy':>15}{'chance':>9}{'tokens per item':>18}")
    for name, row in results["modalities"].items():
        print(f"{name:<10}{row['accuracy']:>15.1%}{row['chance']:>9.0%}{row['tokens']:>18}")
    print(f"{'sum of two':<10}{results['sums']['accuracy']:>15.1%}{results['sums']['chance']:>9.0%}{'':>18}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/quickstart"), help="folder for all that is made")
    parser.add_argument("--answer", nargs=3, type=Path, metavar=("MODEL", "QUESTIONS", "ANSWERS"), help="only answer")
    arguments = parser.parse_args()
    if arguments.answer:
        return answer(*arguments.answer)

    output, started = arguments.output, time.time()
    output.mkdir(parents=True, exist_ok=True)
    set_seed(0)
    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))  # one core is left to the process that reads files

    def say(text: str) -> None:
        print(f"\n[{time.time() - started:4.0f} s] {text}", flush=True)

    print(f"transformers-anymodality {transformers_anymodality.__version__}: six modalities of a digit")
    say("The world: handwriting, videos, speech, motion, depth and warmth, in files")
    world = make_world(output / "world")
    say("The parts: five towers and a language model")
    make_parts(world, output / "parts")
    say("Compose, and stage 1: align")
    model, processor = compose_modalities(output / "parts")
    align_log, table = align(model, processor, world, output)
    say("Stage 2: instruct, with LoRA")
    model, instruct_log = instruct(model, processor, world, output)
    model.save_pretrained(output / "model", processor=processor)
    say("A new process loads the model and answers about writers and speakers it has not met")
    samples, answers = examine(world, output)
    results = score(samples, answers, {name: own.num_tokens for name, own in processor.modalities.items()})
    results["seconds"] = round(time.time() - started, 1)
    (output / "results.json").write_text(json.dumps(results, indent=2))
    page.write(output / "index.html", results, samples, answers, {"align": align_log, "instruct": instruct_log}, table)
    write_examples(output / "examples.jsonl", samples, answers)
    print_table(results)
    say(f"Done. Look at {output / 'index.html'}; the model is in {output / 'model'}.")


if __name__ == "__main__":
    main()
