"""AnyMAL's multimodal instructions and its suite of zero-shot benchmarks (https://arxiv.org/abs/2309.16058, section 5,
appendix B).

The instructions were not released; their format follows the paper's figures. The benchmarks' prompts follow the appendix in
content, not word for word. SPICE and SPIDEr of AudioCaps are left out, because they need a scene graph parser in Java."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...data.formats import chat, listed, places, register_format, words
from ...data.records import media_columns
from ...evaluation.tasks import TASKS, Task, register_suite, register_task
from ...modalities import MODALITIES


@register_format(
    "anymal",
    help="AnyMAL's MM-IT: instruction, response, and media by their names",
    example={"image": "x.jpg", "imu": "x.csv", "instruction": "Write a slogan for this.", "response": "Run free."},
)
def convert(record: Mapping[str, Any], index: int, media_root: Path | None) -> Iterator[dict[str, Any]]:
    """The instruction stands in front of the media."""
    media = {name: listed(record[column]) for name, column in media_columns(record).items()}
    columns = {MODALITIES[name].argument: items for name, items in media.items()}
    question = [*words(record["instruction"]), *places(**media)]
    yield chat(("user", question), ("assistant", record["response"]), **columns)


# --- benchmarks ------------------------------------------------------------------------------------------------------


_ONE_WORD = "{question}\nAnswer in one word or a short phrase."
_LETTER = "{question}\n{choices}\nChoose the right answer. Answer with its letter only."
# Benchmark -> (kind, prompt), in the order of the paper's tables.
_BENCHMARKS = {
    "coco": ("captioning", "Write a generic caption of this image, in one short sentence."),
    "mmit_cap": ("captioning", "Write a specific caption of this image, with what can be seen in it."),
    "hatefulmemes": (
        "yes_no",
        "The text on this image is: {question}\nIs this image with its text hateful? Yes or no.",
    ),
    "vqav2": ("vqa", _ONE_WORD),
    "textvqa": ("vqa", "{question}\nRead the text in the image. Answer in one word or a short phrase."),
    "scienceqa": ("multiple_choice_letter", _LETTER),
    "vizwiz": ("vqa", f"{_ONE_WORD} If the image does not tell, answer: unanswerable"),
    "okvqa": ("vqa", _ONE_WORD),
    "audiocaps": ("captioning", "Describe what can be heard, in one sentence of at most 30 words."),
    "star": ("multiple_choice_letter", _LETTER),
    "how2qa": ("multiple_choice_letter", _LETTER),
    "nextqa": ("multiple_choice_letter", _LETTER),
    "imu": ("imu_captioning", "Describe the motion that the sensor recorded, in one sentence of at most 30 words."),
}


register_task(
    "imu_captioning",
    replace(
        TASKS["captioning"],
        help="what the wearer of motion sensors does: CIDEr-D, BLEU, ROUGE-L",
        prompt="Describe in one short sentence what the person who wears this motion sensor is doing.",
    ),
)


def _task(name: str, kind: str, prompt: str) -> Task:
    task = TASKS[kind]
    # Data sets of memes have the text of the picture in the column `text`.
    questions = (*task.questions, "text") if kind == "yes_no" else task.questions
    return replace(task, help=f"AnyMAL's {name}: {task.help}", prompt=prompt, questions=questions)


register_suite("anymal", {name: _task(name, *asked) for name, asked in _BENCHMARKS.items()})
