"""Real speech without transcripts, written down by Whisper: to train on, never to test with (pseudo-labels).

Synthetic voices alone do not carry over to a telephone. With them alone the audio aligner gets 85 % of the words of the real
test recordings wrong, with these phrases of their voice besides 70 %.
"""

import json
from pathlib import Path
from typing import Any

import soundfile
from tqdm import tqdm
from transformers import AutoFeatureExtractor, AutoModelForSpeechSeq2Seq, AutoTokenizer

from .answers import faster
from .check import read_sound
from .splits import normalised


SECONDS = 8.0  # of the longest that is used; the tower hears ten at once
LETTERS = 25  # a second; of more, the decoder has said one word again and again


def load(recordings: dict[str, list[dict[str, Any]]], folders: dict[str, Path], file: Path) -> list[dict[str, Any]]:
    """The unlabelled recordings with `text`, without those that say no more than a test recording. Made once.

    Args:
        recordings: as `recordings.load` gives them.
        folders: `hearing`; without it there is no text, and so none of the recordings.
        file: JSONL, where they are kept.
    """
    if file.is_file():
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    if "hearing" not in folders:
        return []
    tested = {normalised(item["text"]) for item in recordings["test"]}
    lengths = {item["audio"]: soundfile.info(item["audio"]).duration for item in recordings["unlabelled"]}
    items = [item for item in recordings["unlabelled"] if lengths[item["audio"]] <= SECONDS]
    texts = write_down([item["audio"] for item in items], folders["hearing"])
    kept = [
        {**item, "text": text}
        for item, text in zip(items, texts, strict=True)
        if usable(text, lengths[item["audio"]]) and normalised(text) not in tested
    ]
    file.write_text("".join(json.dumps(item) + "\n" for item in kept), encoding="utf-8")
    return kept


def usable(text: str, seconds: float) -> bool:
    """Words without figures, which may be said in several ways, and no more of them than a voice can say."""
    return bool(normalised(text)) and not any(map(str.isdigit, text)) and len(text) <= LETTERS * seconds + 5


def write_down(files: list[str], hearing: Path, batch: int = 16) -> list[str]:
    """By Whisper with its encoder of ten seconds, a third of the work of thirty."""
    model, tokenizer = AutoModelForSpeechSeq2Seq.from_pretrained(hearing), AutoTokenizer.from_pretrained(hearing)
    extractor, texts = AutoFeatureExtractor.from_pretrained(hearing), []
    for start in tqdm(range(0, len(files), batch), desc="write down", leave=False):
        sounds = [read_sound(file, extractor.sampling_rate) for file in files[start : start + batch]]
        inputs = extractor(sounds, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        with faster():
            texts += tokenizer.batch_decode(model.generate(**inputs, max_length=48), skip_special_tokens=True)
    return [text.strip() for text in texts]
