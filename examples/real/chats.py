"""Items as chats: what is asked about each, and what is to be said."""

from collections.abc import Callable, Iterable
from typing import Any


Messages = list[dict[str, Any]]
TRANSCRIBE = "Transcribe the speech."
TRANSLATE = "Translate the speech into English."
DESCRIBE = "What is in the picture?"
EXERCISE = "Which exercise is it?"
SAME = "Do the picture and the recording belong together?"
EMOJI = "Which emoji is it?"


def chat(media: Iterable[tuple[str, str]], question: str, answer: str) -> Messages:
    """One question about media, pairs of modality and path, and its answer."""
    parts = [{"type": modality, "path": path} for modality, path in media]
    return [
        {"role": "user", "content": [*parts, {"type": "text", "text": question}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]


def one_of(what: str, choices: Iterable[str]) -> str:
    return f"Which {what} is it: {', '.join(choices)}?"


def _describe(item: dict[str, Any]) -> Iterable[Messages]:
    if item["image"]:
        yield chat([("image", item["image"])], DESCRIBE, item["caption"])


def _transcribe_stamp(item: dict[str, Any]) -> Iterable[Messages]:
    if "en" in item["speech"]:
        yield chat([("audio", item["speech"]["en"])], TRANSCRIBE, item["caption"])


def _translate(item: dict[str, Any]) -> Iterable[Messages]:
    for language, path in item["speech"].items():
        if language != "en":
            yield chat([("audio", path)], TRANSLATE, item["caption"])


def _name_sound(item: dict[str, Any]) -> Iterable[Messages]:
    if item["sound"]:
        yield chat([("audio", item["sound"])], "What makes this sound?", item["caption"])


def _transcribe(item: dict[str, Any]) -> Iterable[Messages]:
    if "text" in item:
        yield chat([("audio", item["audio"])], TRANSCRIBE, item["text"])


def _same(item: dict[str, Any]) -> Iterable[Messages]:
    media = [("image", item["image"]), ("audio", item["audio"])]
    yield chat(media, SAME, "Yes." if item["same"] else "No.")


EMOJI_CATEGORIES = (
    "Activities", "Animals & Nature", "Flags", "Food & Drink", "Objects", "People & Body", "Smileys & Emotion", "Symbols",
    "Travel & Places",
)  # fmt: skip
EXERCISES = (
    "pendulum", "abduction", "forward elevation", "internal rotation", "external rotation", "trapezius extension",
    "upright row",
)  # fmt: skip

# Data set -> task -> what makes chats of an item, none where it is not good for the task.
CHATS: dict[str, dict[str, Callable[[dict[str, Any]], Iterable[Messages]]]] = {
    "stamps": {
        "describe": _describe,
        "transcribe": _transcribe_stamp,
        "translate": _translate,
        "sound": _name_sound,
    },
    "same": {"same": _same},
    "recordings": {"transcribe": _transcribe},
    "voices": {"transcribe": _transcribe},
    "emoji": {
        "name": lambda item: [chat([("image", item["image"])], EMOJI, item["name"])],
        "category": lambda item: [
            chat([("image", item["image"])], one_of("category", EMOJI_CATEGORIES), item["category"])
        ],
    },
    "watch": {
        "exercise": lambda item: [chat([("imu", item["imu"])], one_of("exercise", EXERCISES), item["exercise"])],
    },
}
