"""PandaGPT's visual instructions (conversations about one image each, without a marker for it), and its examples.

The examples (https://arxiv.org/abs/2305.16355, section 4) are asked and shown on the page of samples, not scored.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from ...data.formats import chat, places, register_format, words
from ...data.records import ROLES, media_columns
from ...evaluation.tasks import TASKS, register_task


@register_format(
    "pandagpt",
    help="PandaGPT's pandagpt4_visual_instruction_data.json: image_name and conversation",
    example={
        "image_name": "000000000001",
        "conversation": [
            {"from": "human", "value": "What is on the table?"},
            {"from": "gpt", "value": "A red mug and two pens."},
            {"from": "human", "value": "How many pens?"},
            {"from": "gpt", "value": "Two."},
        ],
    },
)
def convert(record: Mapping[str, Any], index: int, media_root: Path | None) -> Iterator[dict[str, Any]]:
    """Puts the image in front of the first question. A name without suffix gets `.jpg`."""
    name = record.get("image_name")
    images = [] if not name else [name if PurePosixPath(name).suffix else f"{name}.jpg"]
    turns: list[Any] = [(ROLES[turn["from"]], turn["value"]) for turn in record["conversation"]]
    if not turns or turns[0][0] != "user":
        raise ValueError("the first turn is not the human's")
    turns[0] = ("user", [*places(image=images), *words(turns[0][1])])
    yield chat(*turns, images=images)


# --- benchmarks ------------------------------------------------------------------------------------------------------


# Ability that the examples show -> the modalities that it needs, and prompts.
_ABILITIES = {
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
    """Each record with every prompt for its modalities. Items are made when they are read."""

    def __init__(self, records: Sequence[Mapping[str, Any]]):
        self.records = records
        self.places = [
            (i, ability, number)
            for i in range(len(records))
            for ability, (modalities, prompts) in _ABILITIES.items()
            if set(modalities) == set(media_columns(records[i]))
            for number in range(len(prompts))
        ]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        place, ability, number = self.places[index]
        record = self.records[place]
        known = f"{record.get('id', place)}: {ability} {number}"
        return {**record, "id": known, "ability": ability, "question": _ABILITIES[ability][1][number]}


register_task(
    "pandagpt",
    replace(
        TASKS["open"],
        help="PandaGPT's examples for each record's modalities, to be looked at (arXiv 2305.16355)",
        expand=_Asked,
        keeps=("ability",),
    ),
)
