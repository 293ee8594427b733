"""PandaGPT's examples (https://arxiv.org/abs/2305.16355, section 4): asked, looked at on the page of samples, not scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...data.records import media_columns
from ...evaluation.tasks import TASKS, register_task


# What the examples show -> the modalities that it needs, and prompts.
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
    """Each record with every prompt for its modalities, made when it is asked for."""

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
