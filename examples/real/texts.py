"""Text that must not be lost: English prose that every Python carries, and fifty short questions."""

import json
import random
import re
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .tasks import chat


# Question -> what a right answer holds, any of those divided by a bar.
SHORT = json.loads(Path(__file__).with_name("short_questions.json").read_text())
_PROSE = re.compile(r"\n\n(?=[A-Z])(?P<text>[A-Z](?:.|\n(?! ))+?[.:])(?=\n\n)")


def passages(least: int = 200) -> list[str]:
    """Paragraphs of Python's language reference, which `help()` prints: those of `least` letters or more, without code."""
    from pydoc_data.topics import topics

    found = {" ".join(match["text"].split()) for text in topics.values() for match in _PROSE.finditer(text)}
    return sorted(text for text in found if len(text) >= least and "::" not in text)


def split(seed: int = 0, held_out: int = 150) -> tuple[list[str], list[str]]:
    """Passages for training, and those that perplexity is measured on."""
    found = passages()
    random.Random(seed).shuffle(found)
    return found[held_out:], found[:held_out]


def chats(texts: list[str], words: int = 36) -> list[dict[str, Any]]:
    """Records without media: a passage that is begun, and how it goes on."""
    records = []
    for text in texts:
        head, tail = text.split()[:8], text.split()[8:words]
        records.append({"messages": chat((), f"Continue: {' '.join(head)}", " ".join(tail))})
    return records


@torch.no_grad()
def losses(model: Any, tokenizer: Any, texts: list[str], batch: int = 8) -> list[tuple[float, int]]:
    """Sum of the words' negative log-likelihoods, and how many words, of each text. Perplexity is exp of their ratio."""
    result = []
    for start in tqdm(range(0, len(texts), batch), desc="perplexity", leave=False):
        inputs = tokenizer(texts[start : start + batch], padding=True, padding_side="right", return_tensors="pt")
        logits = model(**inputs).logits[:, :-1].float()
        targets = inputs["input_ids"][:, 1:]
        lost = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        real = inputs["attention_mask"][:, 1:]
        result += list(zip((lost * real).sum(1).tolist(), real.sum(1).tolist(), strict=True))
    return result


def is_right(answer: str, wanted: str) -> bool:
    return any(re.search(rf"\b{re.escape(one)}\b", answer, re.IGNORECASE) for one in wanted.split("|"))
