"""Real speech without transcripts, transcribed by Whisper (pseudo-labels), for training, never for tests.

Synthetic voices alone are not enough for telephone speech. With 1,200 of their clips, the audio aligner got 85 % of the
words of the real test recordings wrong. With 3,000 clips and these phrases, spoken by the test's voice, it got 70 % wrong.
"""

import json
from pathlib import Path
from typing import Any

import soundfile

from .check import transcribe
from .splits import normalised


SECONDS = 8.0  # of the longest recording that is used; the tower's window has ten
LETTERS = 25  # per second at most; in a longer text, the decoder has repeated one word


def load(recordings: dict[str, list[dict[str, Any]]], folders: dict[str, Path], file: Path) -> list[dict[str, Any]]:
    """The unlabelled recordings with `text`, transcribed once. Recordings with the text of a test recording are left out.

    Args:
        recordings: from `recordings.load`.
        folders: holds `hearing`; without it, no recording is used.
        file: JSONL file for the result.
    """
    if file.is_file():
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    if "hearing" not in folders:
        return []
    tested = {normalised(item["text"]) for item in recordings["test"]}
    lengths = {item["audio"]: soundfile.info(item["audio"]).duration for item in recordings["unlabelled"]}
    items = [item for item in recordings["unlabelled"] if lengths[item["audio"]] <= SECONDS]
    texts = transcribe(folders["hearing"], [item["audio"] for item in items], fast=True)
    kept = [
        {**item, "text": text}
        for item, text in zip(items, texts, strict=True)
        if usable(text, lengths[item["audio"]]) and normalised(text) not in tested
    ]
    file.write_text("".join(json.dumps(item) + "\n" for item in kept), encoding="utf-8")
    return kept


def usable(text: str, seconds: float) -> bool:
    """Whether a text has words, no figures (they can be read in several ways), and not more letters than a voice can say."""
    return bool(normalised(text)) and not any(map(str.isdigit, text)) and len(text) <= LETTERS * seconds + 5
