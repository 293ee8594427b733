"""Training samples and test questions: chats from the data sets' items."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any


Sets = dict[str, dict[str, list[dict[str, Any]]]]
SPOKEN = "es"  # the language to transcribe and translate
HEAR = "Write down what is said."
HEAR_FOREIGN = "Write down what is said in Spanish."
TRANSLATE = "Translate what is said into English."
DESCRIBE = "What is in the picture?"
CATEGORY = "Which category is it?"
EXERCISE = "Which exercise is it?"
SAME = "Is that what is said? Yes or no?"
BOTH = "What is said, and which category is it?"
WHAT = "What is it?"
EMOJI_CATEGORIES = (
    "Activities", "Animals & Nature", "Flags", "Food & Drink", "Objects", "People & Body", "Smileys & Emotion", "Symbols",
    "Travel & Places",
)  # fmt: skip
EXERCISES = (
    "pendulum", "abduction", "forward elevation", "internal rotation", "external rotation", "trapezius extension",
    "upright row",
)  # fmt: skip


def chat(media: Iterable[tuple[str, str]], question: str, answer: str) -> list[dict[str, Any]]:
    """One question about media, pairs of modality and path, and its answer."""
    parts = [{"type": modality, "path": path} for modality, path in media]
    return [
        {"role": "user", "content": [*parts, {"type": "text", "text": question}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]


@dataclass
class Question:
    """One question of a row of results.

    Attributes:
        media: (modality, path) in order.
        rest: further facts for rivals, such as the item's category, or captions to choose from.
    """

    text: str
    answer: str
    media: list[tuple[str, str]]
    rest: dict[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> dict[str, Any]:
        return {"messages": chat(self.media, self.text, self.answer)}


def yes_no(category: str) -> str:
    return f"Is it of the category {category}? Yes or no?"


def which(category: str) -> str:
    return f"Which picture is of the category {category}, the first or the second?"


# --- questions of each kind, about the items of one split ----------------------------------------------------------------


def english(sets: Sets, split: str) -> Iterable[Question]:
    """Recordings with English text: Asterisk's words for testing, its phrases and synthetic voices for training."""
    for name in ("recordings", "voices"):
        for item in sets.get(name, {}).get(split, ()):
            yield Question(HEAR, item["text"], [("audio", item["audio"])], {"kind": item["kind"]})
    for stamp in sets.get("stamps", {}).get(split, ()):
        if "en" in stamp["speech"]:
            yield Question(HEAR, stamp["caption"], [("audio", stamp["speech"]["en"])], {"kind": "captions"})


def foreign(sets: Sets, split: str, translated: bool) -> Iterable[Question]:
    for stamp in sets.get("stamps", {}).get(split, ()):
        if SPOKEN in stamp["speech"] and SPOKEN in stamp["captions"]:
            text, answer = (TRANSLATE, stamp["caption"]) if translated else (HEAR_FOREIGN, stamp["captions"][SPOKEN])
            yield Question(text, answer, [("audio", stamp["speech"][SPOKEN])], {"cluster": stamp["cluster"]})


def categories(sets: Sets, split: str) -> Iterable[Question]:
    for item in sets.get("emoji", {}).get(split, ()):
        yield Question(CATEGORY, item["category"], [("image", item["image"])], {"category": item["category"]})


def yes_or_no(sets: Sets, split: str, rng: random.Random) -> Iterable[Question]:
    """Half of the questions name the right category, half another. The answer first names the category, then decides."""
    for i, item in enumerate(sets.get("emoji", {}).get(split, ())):
        others = [name for name in EMOJI_CATEGORIES if name != item["category"]]
        asked = item["category"] if i % 2 else rng.choice(others)
        answer = f"{item['category']}. {'Yes' if i % 2 else 'No'}."
        yield Question(yes_no(asked), answer, [("image", item["image"])], {"asked": asked})


def two_pictures(sets: Sets, split: str, rng: random.Random, count: int) -> Iterable[Question]:
    """Two emoji of two categories; the question asks for one. The answer first names both, then decides."""
    items = sets.get("emoji", {}).get(split, ())
    for _ in range(count if len({item["category"] for item in items}) > 1 else 0):
        one = rng.choice(items)
        other = rng.choice([item for item in items if item["category"] != one["category"]])
        place = rng.randrange(2)
        pair = (one, other) if place == 0 else (other, one)
        media = [("image", item["image"]) for item in pair]
        answer = f"{pair[0]['category']}, {pair[1]['category']}. The {('first', 'second')[place]}."
        yield Question(which(one["category"]), answer, media)


def captions(sets: Sets, split: str) -> Iterable[Question]:
    for stamp in sets.get("stamps", {}).get(split, ()):
        if stamp["image"]:
            yield Question(DESCRIBE, stamp["caption"], [("image", stamp["image"])], {"cluster": stamp["cluster"]})


def names(sets: Sets, split: str) -> Iterable[Question]:
    for item in sets.get("emoji", {}).get(split, ()):
        yield Question(DESCRIBE, f"{item['name'].capitalize()}.", [("image", item["image"])])


def motion(sets: Sets, split: str) -> Iterable[Question]:
    for item in sets.get("watch", {}).get(split, ()):
        yield Question(EXERCISE, item["exercise"], [("imu", item["imu"])], {"subject": item["subject"]})


def same(sets: Sets, split: str) -> Iterable[Question]:
    for pair in sets.get("same", {}).get(split, ()):
        if pair["kind"] == SPOKEN:
            media = [("image", pair["image"]), ("audio", pair["audio"])]
            yield Question(SAME, "Yes." if pair["same"] else "No.", media)


def both(sets: Sets, split: str, rng: random.Random, count: int) -> Iterable[Question]:
    """A spoken word, and a picture's category: one medium alone gives only half of the answer."""
    words = [one for one in english(sets, split) if one.rest["kind"] != "captions" and len(one.answer.split()) == 1]
    pictures = list(categories(sets, split))
    for _ in range(count if words and pictures else 0):
        word, picture = rng.choice(words), rng.choice(pictures)
        yield Question(BOTH, f"{word.answer}, {picture.answer}", [*word.media, *picture.media], picture.rest)


def noisy(sets: Sets, split: str) -> Iterable[Question]:
    """A caption spoken in noise, to translate, and its picture."""
    for item in sets.get("noisy", {}).get(split, ()):
        yield Question(TRANSLATE, item["caption"], [("image", item["image"]), ("audio", item["noisy_audio"])])


def senses(sets: Sets, split: str) -> Iterable[Question]:
    """A mostly hidden picture, and its caption spoken in noise."""
    for item in sets.get("noisy", {}).get(split, ()):
        yield Question(WHAT, item["caption"], [("image", item["noisy_image"]), ("audio", item["noisy_audio"])])


# --- all of them -----------------------------------------------------------------------------------------------------------


def kinds(sets: Sets, split: str, seed: int) -> dict[str, list[Question]]:
    """Row of the results -> its questions, if the data sets allow them."""
    rng = random.Random(seed)
    found = {
        "speech": english(sets, split),
        "speech_foreign": foreign(sets, split, translated=False),
        "translation": foreign(sets, split, translated=True),
        "categories": categories(sets, split),
        "yes_or_no": yes_or_no(sets, split, rng),
        "captions": captions(sets, split),
        "names": names(sets, split),
        "motion": motion(sets, split),
        "same": same(sets, split),
        "both": both(sets, split, rng, 200 if split == "test" else 600),
        "two_pictures": two_pictures(sets, split, rng, 200 if split == "test" else 600),
        "noisy": noisy(sets, split),
        "senses": senses(sets, split),
    }
    return {name: list(questions) for name, questions in found.items()}


def with_parts(questions: dict[str, list[Question]]) -> dict[str, list[Question]]:
    """For training: questions about a noisy recording and its picture come as often about one of them alone."""
    return questions | {
        "noisy": [one for q in questions["noisy"] for one in (q, only(q, "audio"))],
        "senses": [one for q in questions["senses"] for one in (q, only(q, "audio"), only(q, "image"))],
    }


def only(question: Question, modality: str) -> Question:
    return replace(question, media=[(name, path) for name, path in question.media if name == modality])


def exchanged(questions: list[Question], places: Sequence[int] = (0,), seed: int = 0) -> list[Question]:
    """The control: the same questions, each with media of a question with another answer at these places."""
    rng, result = random.Random(seed), []
    for question in questions:
        others = [one for one in questions if one.answer != question.answer] or questions
        media, foreign_media = list(question.media), rng.choice(others).media
        for place in places:
            media[place] = foreign_media[place]
        result.append(replace(question, media=media))
    return result
