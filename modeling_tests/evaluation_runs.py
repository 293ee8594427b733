"""A checkpoint, media and a file of each kind of task; and evaluations of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from modeling_tests import tiny
from transformers_anymodality.evaluation import Job, evaluate


@pytest.fixture(scope="module")
def folder(tmp_path_factory, shared) -> Path:
    """A checkpoint, media, and a file of each kind of task."""
    folder = tmp_path_factory.mktemp("evaluation")
    model, processor = shared
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    for i in range(5):
        Image.fromarray(tiny.medium("image", i)).save(folder / f"{i}.png")
        soundfile.write(folder / f"{i}.wav", tiny.medium("audio", i), 16000)
        np.save(folder / f"{i}.npy", tiny.medium("imu", i))
    write(
        folder, "captions", [{"id": f"c{i}", "image": f"{i}.png", "captions": ["yes no", "one two"]} for i in range(5)]
    )
    questions = {"question": "what is this ?", "answers": [{"answer": "yes"}] * 10, "answer_type": "other"}
    write(folder, "vqa", [{"question_id": i, "image": f"{i}.png", **questions} for i in range(5)])
    write(folder, "asr", [{"audio": f"{i}.wav", "text": "one two three"} for i in range(5)])
    write(folder, "both", [{"audio": f"{i}.wav", "image": f"{i}.png", "text": "one two"} for i in range(5)])
    write(
        folder,
        "labels",
        [{"image": f"{i}.png", "question": "what ?", "label": ["big", "small"][i % 2]} for i in range(5)],
    )
    choices = {"question": "what ?", "choices": ["big red sound", "small", "walk"]}
    write(folder, "choices", [{"image": f"{i}.png", **choices, "answer": i % 3} for i in range(5)])
    write(folder, "yes_no", [{"image": f"{i}.png", "question": "is this big ?", "label": i % 2} for i in range(5)])
    write(folder, "imu", [{"imu": f"{i}.npy", "caption": "walk"} for i in range(5)])
    return folder


def write(folder: Path, name: str, records: list[dict]) -> str:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


KINDS = {
    "captioning": "captions",
    "vqa": "vqa",
    "asr": "asr",
    "multimodal_asr": "both",
    "classification": "labels",
    "multiple_choice": "choices",
    "multiple_choice_letter": "choices",
    "yes_no": "yes_no",
    "imu_captioning": "imu",
    "open": "vqa",
}


def job(folder: Path, kind: str, **options) -> Job:
    return Job(kind, str(folder / f"{KINDS[kind]}.jsonl"), media_root=str(folder), **options)


def run(shared, jobs: list[Job], output, **options):
    return evaluate(
        *shared, jobs, output, verbose=False, **{"generation": {"max_new_tokens": 4}, "batch_size": 3, **options}
    )
