"""Checks converted folders: missing and unexpected keys, and the output for a known input."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import soundfile
import soxr
import torch
from PIL import Image
from tqdm import tqdm
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    AutoTokenizer,
)

from . import recordings
from .answers import faster


QUESTION = "What is the capital of France?"
SENTENCES = ("A small dog.", "A little puppy.", "A red bicycle.")


def _loaded(kind: type, folder: Path) -> tuple[Any, dict[str, Any]]:
    """The model, and the numbers of missing and unexpected keys."""
    model, found = kind.from_pretrained(folder, output_loading_info=True)
    return model, {name: len(found[name]) for name in ("missing_keys", "unexpected_keys", "mismatched_keys")}


@torch.no_grad()
def language_model(folder: Path, output: Path) -> dict[str, Any]:
    model, report = _loaded(AutoModelForCausalLM, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": QUESTION}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**inputs, max_new_tokens=20, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    return {**report, QUESTION: tokenizer.decode(answer, skip_special_tokens=True)}


def read_sound(file: str, rate: int) -> Any:
    """One channel at `rate`. Returns: (samples,) float32."""
    samples, own = soundfile.read(file, dtype="float32", always_2d=True)
    return soxr.resample(samples.mean(axis=1), own, rate)


@torch.no_grad()
def transcribe(folder: Path, files: list[str], batch: int = 16, fast: bool = False) -> list[str]:
    """A converted Whisper's transcripts of recordings that fit into its window, up to 30 seconds.

    Args:
        fast: in bfloat16, if the CPU has it. Whisper's `generate` accepts that only without an attention mask.
    """
    model, processor = AutoModelForSpeechSeq2Seq.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    rate, texts = processor.feature_extractor.sampling_rate, []
    for start in tqdm(range(0, len(files), batch), desc="Whisper", leave=False):
        sounds = [read_sound(file, rate) for file in files[start : start + batch]]
        inputs = processor(sounds, sampling_rate=rate, return_tensors="pt", return_attention_mask=not fast)
        with faster() if fast else nullcontext():
            written = model.generate(**inputs, max_length=64)
        texts += processor.batch_decode(written, skip_special_tokens=True)
    return [text.strip() for text in texts]


def whisper(folder: Path, output: Path, count: int = 16) -> dict[str, Any]:
    """Keys, and transcripts of real recordings with known words, if they were fetched."""
    _, report = _loaded(AutoModelForSpeechSeq2Seq, folder)
    raw = output / "raw" / "phrases"
    if raw.is_dir():
        items = recordings.load(raw)["test"]
        items = items[:: max(1, len(items) // count)][:count]
        heard = transcribe(folder, [item["audio"] for item in items])
        report["heard"] = {item["text"]: text for item, text in zip(items, heard, strict=True)}
    return report


def hearing(folder: Path, output: Path) -> dict[str, Any]:
    return _loaded(AutoModel, folder)[1]


@torch.no_grad()
def efficientnet(folder: Path, output: Path) -> dict[str, Any]:
    """Keys, and the class of two photographs from scikit-learn: a Chinese palace and a dahlia."""
    from sklearn.datasets import load_sample_images

    model, report = _loaded(AutoModelForImageClassification, folder)
    processor, photos = AutoImageProcessor.from_pretrained(folder), load_sample_images()
    images = [Image.fromarray(pixels) for pixels in photos.images]
    best = model(**processor(images, return_tensors="pt")).logits.argmax(-1).tolist()
    names = [Path(file).name for file in photos.filenames]
    return {**report, **{name: model.config.id2label[i] for name, i in zip(names, best, strict=True)}}


@torch.no_grad()
def minilm(folder: Path, output: Path) -> dict[str, Any]:
    """Keys, and the cosines of two sentences with nearly the same meaning, and of two with different meanings."""
    model, report = _loaded(AutoModel, folder)
    inputs = AutoTokenizer.from_pretrained(folder)(list(SENTENCES), padding=True, return_tensors="pt")
    mask = inputs["attention_mask"][..., None]
    mean = (model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
    near, far = torch.nn.functional.cosine_similarity(mean[:1], mean[1:]).tolist()
    return {**report, f"{SENTENCES[0]} {SENTENCES[1]}": near, f"{SENTENCES[0]} {SENTENCES[2]}": far}


CHECKS = {
    "language_model": language_model, "whisper": whisper, "hearing": hearing, "efficientnet": efficientnet,
    "minilm": minilm,
}  # fmt: skip


def check(folders: dict[str, Path], output: Path) -> dict[str, dict[str, Any]]:
    """Name of a folder -> its model's output. `output`: folder that may hold real recordings."""
    return {name: CHECKS[name](folder, output) for name, folder in folders.items()}
