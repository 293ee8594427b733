"""Macaw-LLM's generated instructions about images and videos, its text instructions, and its questions for inference."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ...data.formats import chat, listed, places, register_format, words
from ...modalities import MODALITIES


@register_format(
    "macaw_llm",
    help="Macaw-LLM's generated_examples_*.json (id, instruction, response), Alpaca's JSON, and its inference JSON",
    example={"id": "COCO_train2014_000000000999.jpg", "instruction": "What colour is it?", "response": "Blue."},
)
def convert(record: Mapping[str, Any], index: int, media_root: Path | None) -> Iterator[dict[str, Any]]:
    """The `id` names the file: an image by its suffix, otherwise a video (`.mp4` if it has no suffix).

    The audio of a video is taken along if `<id>.wav` is beside it in the media root. The fields `image`, `video` and `audio`
    name files themselves, "None" for none. A record without any is a text instruction; its `input` goes into the message,
    where Macaw's template looks for it. A question without `response` becomes a chat without answer. The original drops
    instructions about captions, and answers with "no" or "not"; here all are kept.
    """
    named = {kind: listed(record.get(kind)) for kind in ("image", "video", "audio")}
    if not any(kind in record for kind in named) and isinstance(record.get("id"), str):
        named.update(_by_id(record["id"], media_root))
    turns: list[Any] = [("user", [*places(**named), *words(record["instruction"])])]
    answer = record.get("response", record.get("output"))
    if answer is not None:
        turns.append(("assistant", answer))
    made = chat(*turns, images=named["image"], videos=named["video"], audio=named["audio"])
    if record.get("input"):
        made["messages"][0]["input"] = record["input"]
    yield made


def _by_id(file: str, media_root: Path | None) -> dict[str, list[str]]:
    suffix = PurePosixPath(file).suffix.lower()
    if suffix in MODALITIES["image"].suffixes:
        return {"image": [file]}
    video = file if suffix else f"{file}.mp4"
    beside = dict.fromkeys((f"{video}.wav", str(PurePosixPath(video).with_suffix(".wav")), f"{file}.wav"))
    return {
        "video": [video],
        "audio": [file for file in beside if media_root is not None and (media_root / file).is_file()][:1],
    }
