"""The suites of AnyMAL's and PandaGPT's papers, as tasks with prompts.

AnyMAL (https://arxiv.org/abs/2309.16058, section 5, appendix B) is measured on public benchmarks, zero-shot; the wording
here follows what the appendix asks for, and is not its text. SPICE and SPIDEr, which AudioCaps has besides, need a parser
of scene graphs in Java, and are left out. PandaGPT (https://arxiv.org/abs/2305.16355, section 4) shows examples alone: its
suite is asked, looked at on the page of samples, and not scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data.records import media_columns
from .tasks import TASKS, register_task


_ONE_WORD = "{question}\nAnswer in one word or a short phrase."
_LETTER = "{question}\n{choices}\nChoose the right answer. Answer with its letter only."
# Benchmark -> (kind, prompt), in the order of the paper's tables.
_ANYMAL = {
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
# What the paper's examples show -> the senses it needs, and prompts.
_PANDAGPT = {
    "image question": (("image",), ["What is shown here?", "What is unusual about this picture?"]),
    "image-inspired writing": (
        ("image",),
        ["Write a short story that this picture inspires.", "Write a poem about it."],
    ),
    "video question": (("video",), ["What happens in this video?", "Why might they do this?"]),
    "audio question": (("audio",), ["What can be heard?", "Where could this have been recorded?"]),
    "image and audio": (("image", "audio"), ["Describe a scene that has both what is shown and what is heard."]),
    "video and audio": (("video", "audio"), ["What happens, going by both what is shown and what is heard?"]),
    "depth question": (("depth",), ["What is near, and what is far away?"]),
    "thermal question": (("thermal",), ["What is warm here?"]),
    "motion question": (("imu",), ["What is the person who wears this sensor doing?"]),
}


class _Asked(Sequence):
    """Each record with every prompt for its senses, made when it is asked for."""

    def __init__(self, records: Sequence[Mapping[str, Any]]):
        self.records = records
        self.places = [
            (i, ability, number)
            for i in range(len(records))
            for ability, (senses, prompts) in _PANDAGPT.items()
            if set(senses) == set(media_columns(records[i]))
            for number in range(len(prompts))
        ]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        place, ability, number = self.places[index]
        record = dict(self.records[place])
        question = _PANDAGPT[ability][1][number]
        return {
            **record,
            "id": f"{record.get('id', place)}: {ability} {number}",
            "ability": ability,
            "question": question,
        }


def anymal_files(folder: str | Path) -> dict[str, str]:
    """Tasks of AnyMAL's suite -> their files in a folder, `<benchmark>.jsonl` (or .json, .parquet), where there are any.

    Raises:
        ValueError: the folder has none.
    """
    files = {}
    for name in _ANYMAL:
        paths = [Path(folder, f"{name}.{ending}") for ending in ("jsonl", "json", "parquet")]
        files |= {f"anymal_{name}": str(path) for path in paths[::-1] if path.exists()}
    if not files:
        raise ValueError(f"{folder} has no file of AnyMAL's suite: {', '.join(f'{name}.jsonl' for name in _ANYMAL)}.")
    return files


for _name, (_kind, _prompt) in _ANYMAL.items():
    _task = TASKS[_kind]
    # The data sets of memes have the text on them in `text`.
    _questions = (*_task.questions, "text") if _kind == "yes_no" else _task.questions
    register_task(
        f"anymal_{_name}",
        replace(_task, help=f"AnyMAL's {_name}: {_task.help}", prompt=_prompt, questions=_questions),
    )
register_task(
    "pandagpt",
    replace(
        TASKS["open"],
        help="PandaGPT's examples for each record's senses, to be looked at (arXiv 2305.16355)",
        expand=_Asked,
        keeps=("ability",),
        groups=(),
    ),
)
