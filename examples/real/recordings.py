"""Asterisk's English prompts: one real voice. The names of some recordings are exact transcripts."""

from pathlib import Path
from typing import Any


_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
)
NUMBERS = dict(enumerate(f"{_ONES} eighteen nineteen".split()))
NUMBERS |= dict(zip(range(20, 100, 10), "twenty thirty forty fifty sixty seventy eighty ninety".split(), strict=True))
LARGE = ("hundred", "thousand", "million", "billion")
DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
MONTHS = tuple("January February March April May June July August September October November December".split())
PHONETIC = tuple(
    (
        "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november oscar papa quebec romeo "
        "sierra tango uniform victor whiskey x-ray yankee zulu"
    ).split()
)
_NOT_SPEECH = {
    "beep",
    "beeperr",
    "ascending-2tone",
    "descending-2tone",
    "tt-monkeys",
    "confbridge-join",
    "confbridge-leave",
}


def transcripts() -> dict[str, str]:
    """Name of a recording -> its transcript."""
    texts = {f"digits/{number}": word for number, word in NUMBERS.items()}
    texts |= {f"digits/{word}": word for word in (*LARGE, "today", "tomorrow", "yesterday", "dollars", "minus")}
    texts |= {f"digits/day-{i}": day for i, day in enumerate(DAYS)}
    texts |= {f"digits/mon-{i}": month for i, month in enumerate(MONTHS)}
    texts |= {f"letters/{chr(code)}": chr(code).upper() for code in range(ord("a"), ord("z") + 1)}
    return texts | {f"phonetic/{word[0]}_p": word for word in PHONETIC} | {"phonetic/9_p": "niner"}


def load(raw: Path) -> dict[str, list[dict[str, Any]]]:
    """`test`: recordings with `audio`, `text` and `kind` (digits, letters, phonetic). `unlabelled`: others, without `text`.

    Whisper transcribes the others for training (`dictation`): none of them is a word of the test alone.
    """
    root, known = next(raw.rglob("asterisk/sounds")), transcripts()
    result = {"test": [], "unlabelled": []}
    (voice,) = [folder for folder in root.iterdir() if folder.is_dir()]
    for file in sorted(voice.rglob("*.wav")):
        name = file.relative_to(voice).with_suffix("").as_posix()
        if name in _NOT_SPEECH or name.startswith("silence/"):
            continue
        item = {"id": name, "audio": str(file), "kind": name.partition("/")[0] if "/" in name else "phrase"}
        if name in known:
            result["test"].append({**item, "text": known[name]})
        else:
            result["unlabelled"].append(item)
    return result
