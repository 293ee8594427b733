"""Other ways to do each job: Whisper's own decoder, and linear models on the same features."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer, pipeline

from transformers_anymodality.features import FeatureStore

from .tasks import Question


def whisper(folder: Path, questions: list[Question], batch: int = 8) -> list[str]:
    """Transcripts by the full Whisper, whose encoder is the composite's audio tower."""
    recognise = pipeline("automatic-speech-recognition", model=str(folder), device="cpu")
    said = []
    for start in tqdm(range(0, len(questions), batch), desc="Whisper", leave=False):
        sounds = [_heard(question.media[0][1]) for question in questions[start : start + batch]]
        said += [one["text"].strip() for one in recognise(sounds, batch_size=batch)]
    return said


def _heard(path: str) -> dict[str, Any]:
    """Samples for the pipeline, which would read files with ffmpeg."""
    values, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return {"raw": values.mean(1), "sampling_rate": rate}


def pooled(questions: list[Question], processor: Any, features: FeatureStore) -> np.ndarray:
    """Mean of the composite's features for each question's first medium, `(questions, dim)`."""
    rows = []
    for question in questions:
        modality, path = question.media[0]
        inputs, _ = features.inputs(processor, {modality: [path]})
        rows.append(inputs[f"{modality}_features"].flatten(0, -2).mean(0).numpy())
    return np.stack(rows)


def probe(train: list[Question], processor: Any, features: FeatureStore) -> Callable[[list[Question]], list[str]]:
    """Logistic regression from pooled features to the answer: questions -> answers."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, C=0.1))
    model.fit(pooled(train, processor, features), [question.answer for question in train])
    return lambda questions: model.predict(pooled(questions, processor, features)).tolist()


@torch.no_grad()
def embed(folder: Path, texts: list[str]) -> np.ndarray:
    """MiniLM's sentence embeddings, of length 1: `(texts, 384)`."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    for start in range(0, len(texts), 64):
        inputs = tokenizer(texts[start : start + 64], padding=True, return_tensors="pt")
        states, mask = model(**inputs).last_hidden_state, inputs["attention_mask"].unsqueeze(-1)
        rows.append(torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).numpy())
    return np.concatenate(rows)


def retrieve(
    train: list[Question],
    test: list[Question],
    choices: list[list[str]],
    minilm: Path,
    processor: Any,
    features: FeatureStore,
) -> list[int]:
    """A linear map from pooled features to MiniLM's embedding of the caption; returns the index of the nearest choice."""
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 5, 11)))
    model.fit(pooled(train, processor, features), embed(minilm, [question.answer for question in train]))
    seen = model.predict(pooled(test, processor, features))
    vectors = embed(minilm, [text for several in choices for text in several]).reshape(len(test), -1, seen.shape[1])
    return (vectors @ seen[..., None])[..., 0].argmax(1).tolist()
