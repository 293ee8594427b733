"""Text that the model must not forget: English prose from Python's own help, and fifty short questions."""

import json
import random
import re
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .answers import answer, faster
from .tasks import chat


# Question -> words in a right answer; a bar separates alternatives.
SHORT = json.loads(Path(__file__).with_name("short_questions.json").read_text())
OPENERS = ("What is", "What", "Which", "Who", "How many", "How", "Where", "Why", "When", "What colour")
_SENTENCES = re.compile(r".*[.!?](?=\s|$)")
_PROSE = re.compile(r"\n\n(?=[A-Z])(?P<text>[A-Z](?:.|\n(?! ))+?[.:])(?=\n\n)")


def passages(least: int = 200) -> list[str]:
    """Paragraphs of Python's language reference, as in `help()`, with at least `least` letters and without code."""
    from pydoc_data.topics import topics

    found = {" ".join(match["text"].split()) for text in topics.values() for match in _PROSE.finditer(text)}
    return sorted(text for text in found if len(text) >= least and "::" not in text)


def split(seed: int = 0, held_out: int = 150) -> tuple[list[str], list[str]]:
    """Passages for training, and passages for measuring perplexity."""
    found = passages()
    random.Random(seed).shuffle(found)
    return found[held_out:], found[:held_out]


def chats(texts: list[str], words: int = 36) -> list[dict[str, Any]]:
    """Records without media: the beginning of a passage, and its continuation."""
    records = []
    for text in texts:
        head, tail = text.split()[:8], text.split()[8:words]
        records.append({"messages": chat((), f"Continue: {' '.join(head)}", " ".join(tail))})
    return records


@torch.no_grad()
def own_chats(model: Any, processor: Any, count: int = 320, batch: int = 50) -> list[dict[str, Any]]:
    """Short questions that the language model asks itself, and its own answers: training on them preserves the model.

    It continues the start of a user's turn (Magpie, arXiv 2406.08464), here after a word with which questions begin. None of
    them is in `SHORT`.
    """
    mark = "\N{WHITE SQUARE}"  # not in any template
    before, _ = processor.apply_chat_template(chat((), mark, "")[:1], tokenize=False).split(mark)
    tested, asked = {question.lower() for question in SHORT}, {}
    for start in tqdm(range(0, count, batch), desc="ask itself", leave=False):
        begun = [OPENERS[i % len(OPENERS)] for i in range(start, min(start + batch, count))]
        inputs = processor.tokenizer(
            [before + one for one in begun], padding=True, padding_side="left", add_special_tokens=False,
            return_tensors="pt",
        )  # fmt: skip
        with faster():
            output = model.generate(**inputs, max_new_tokens=24, do_sample=True, temperature=0.7)
        written = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for opener, rest in zip(begun, written, strict=True):
            question, mark_found, _ = (opener + rest).partition("?")
            if mark_found and "\n" not in question and f"{question}?".lower() not in tested:
                asked[f"{question}?"] = None
    said = answer(model, processor, [chat((), question, "")[:1] for question in asked], max_new_tokens=32)
    whole = [_SENTENCES.match(text) for text in said]  # without an unfinished last sentence
    return [{"messages": chat((), question, text[0])} for question, text in zip(asked, whole, strict=True) if text]


@torch.no_grad()
def losses(model: Any, tokenizer: Any, texts: list[str], batch: int = 8) -> list[tuple[float, int]]:
    """Sum of the words' negative log-likelihoods, and number of words, per text. Perplexity is exp of their ratio."""
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
