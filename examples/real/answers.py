"""The model's answers, in a new process that loads it as a user does.

python -m real.answers MODEL QUESTIONS ANSWERS
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoProcessor

from transformers_anymodality import AnyModalityDataCollator

from .learn import fast_bf16


def faster() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=fast_bf16())


@torch.no_grad()
def answer(
    model: Any, processor: Any, messages: list[list[dict]], max_new_tokens: int = 20, batch: int = 50
) -> list[str]:
    """The model's greedy answer to each chat. Chats of similar length share a batch."""
    order = sorted(range(len(messages)), key=lambda i: len(str(messages[i])))
    said: list[str] = [""] * len(messages)
    for start in tqdm(range(0, len(order), batch), desc="answer", leave=False):
        chosen = order[start : start + batch]
        inputs = processor.apply_chat_template(
            [messages[i] for i in chosen],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        with faster():
            output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        texts = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(chosen, texts, strict=True):
            said[i] = " ".join(text.split())
    return said


def likeliest(model: Any, processor: Any, choices: list[list[dict]], batch: int = 8) -> list[int]:
    """The index of the likeliest answer to each question; a question is a list of records with different answers."""
    collate = AnyModalityDataCollator(processor, skip_logits=False)
    scores = likelihoods(model, collate, [record for several in choices for record in several], batch)
    result, start = [], 0
    for several in choices:
        own = scores[start : start + len(several)]
        result.append(own.index(max(own)))
        start += len(several)
    return result


@torch.no_grad()
def likelihoods(model: Any, collate: AnyModalityDataCollator, records: list[dict], batch: int) -> list[float]:
    """The mean log-likelihood per word of each record's answer."""
    scores = []
    for start in tqdm(range(0, len(records), batch), desc="rank", leave=False):
        inputs = collate(records[start : start + batch])
        labels = inputs.pop("labels")[:, 1:]
        with faster():
            logits = model(**inputs).logits[:, :-1].float()
        lost = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        scores += (-lost.sum(1) / (labels != -100).sum(1)).tolist()
    return scores


def main() -> None:
    folder, questions, answers = map(Path, sys.argv[1:])
    model, processor = AutoModelForCausalLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    asked = json.loads(questions.read_text())
    result = {name: answer(model, processor, chats) for name, chats in asked["chats"].items()}
    result |= {name: likeliest(model, processor, several) for name, several in asked["choices"].items()}
    answers.write_text(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
