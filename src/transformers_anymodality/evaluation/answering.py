"""A model's answers to a batch of samples: generated, or the likelihood of each choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..data.collator import AnyModalityDataCollator
from ..data.records import located
from ..modalities import MediaError
from ..model.language_model import forward_parameters
from .jobs import Job
from .samples import Sample


class Batches(torch.utils.data.Dataset):
    """Batches of samples with their model inputs, for a data loader's processes to prepare."""

    def __init__(self, job: Job, processor: Any, batches: Sequence[Sequence[int]]):
        self.job, self.processor, self.batches = job, processor, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Sequence[Sample], Any]:
        samples = [self.job.sample(i) for i in self.batches[index]]
        prepare = _asked if self.job.task.output == "text" else _choices
        try:
            return samples, prepare(self.processor, samples)
        except (ValueError, OSError) as error:
            raise _located(prepare, self.processor, samples, error) from error


def _asked(processor: Any, samples: Sequence[Sample]) -> Any:
    return prompts(processor, [sample.messages for sample in samples])


def prompts(processor: Any, chats: Sequence[list[dict[str, Any]]]) -> Any:
    """Model inputs of chats that are to be answered, padded on the left."""
    return processor.apply_chat_template(
        chats,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding_side": "left"},
    )


def _choices(processor: Any, samples: Sequence[Sample]) -> list[dict[str, torch.Tensor]]:
    """One batch per place among the choices, so that as many media are in memory as there are samples."""
    most = max(len(sample.choices) for sample in samples)
    collate = AnyModalityDataCollator(processor)
    return [
        collate([_chosen(sample, place) for sample in samples if place < len(sample.choices)]) for place in range(most)
    ]


def _chosen(sample: Sample, place: int) -> dict[str, Any]:
    return {"messages": [*sample.messages, {"role": "assistant", "content": sample.choices[place]}]}


def _located(prepare: Any, processor: Any, samples: Sequence[Sample], error: Exception) -> Exception:
    """The error of a batch, with the name of the sample that it belongs to."""
    for sample in samples:
        try:
            prepare(processor, [sample])
        except (ValueError, OSError) as found:
            if isinstance(found, MediaError):
                return located(sample.where, found, "Sample 0: ")
            return ValueError(f"{sample.where}: {str(found).removeprefix('Sample 0').lstrip(': ')}")
    return error


@torch.inference_mode()
def generated(model: Any, processor: Any, inputs: Any, **generation: Any) -> list[dict[str, Any]]:
    """`{"answer": text}` of each sample."""
    inputs = inputs.to(model.device)
    output = model.generate(**inputs, **generation)
    new = output[:, inputs["input_ids"].shape[1] :]
    return [{"answer": text.strip()} for text in processor.batch_decode(new, skip_special_tokens=True)]


@torch.inference_mode()
def likelihoods(model: Any, samples: Sequence[Sample], inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`{"answer": likeliest choice, "log_likelihoods": of each choice, "tokens": of each}` of each sample.

    A choice's likelihood is that of the tokens which training would teach: its words and what ends the answer.
    """
    found: list[list[tuple[float, int]]] = [[] for _ in samples]
    for place, batch in enumerate(inputs):
        asked = [i for i, sample in enumerate(samples) if place < len(sample.choices)]
        for i, value in zip(asked, _log_likelihoods(model, batch), strict=True):
            found[i].append(value)
    answers = []
    for sample, values in zip(samples, found, strict=True):
        sums, tokens = [value for value, _ in values], [count for _, count in values]
        best = max(range(len(sums)), key=sums.__getitem__)
        answers.append({"answer": sample.choices[best], "log_likelihoods": sums, "tokens": tokens})
    return answers


def _log_likelihoods(model: Any, batch: dict[str, torch.Tensor]) -> list[tuple[float, int]]:
    """Log-likelihood of the labelled tokens of each row, and how many there are."""
    batch = {name: value.to(model.device) for name, value in batch.items()}
    labels = batch.pop("labels")
    first = int((labels != -100).any(dim=0).nonzero()[0])
    labels = labels[:, first:]
    if "logits_to_keep" in forward_parameters(type(model.language_model)):
        batch["logits_to_keep"] = labels.shape[1] + 1
    logits = model(**batch, use_cache=False).logits[:, -labels.shape[1] - 1 : -1]
    log_p = torch.log_softmax(logits.float(), dim=-1)
    at = log_p.gather(2, labels.clamp(min=0).to(log_p.device)[..., None])[..., 0]
    kept = (labels != -100).to(at.device)
    return [(float(value), int(count)) for value, count in zip((at * kept).sum(1), kept.sum(1), strict=True)]
