"""A model's answers to samples: generated, or chosen by the likelihood of each choice."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from ..data.collator import AnyModalityDataCollator
from ..data.records import located, name_of
from ..modalities import MediaError
from ..model.language_model import forward_parameters
from ..utils.processes import place_among, read_ahead
from ..utils.tensors import tensors_hash
from .jobs import Job, Sample
from .results import AnswerFiles, Judge, finish


def evaluate(
    model: Any,
    processor: Any,
    jobs: Sequence[Job],
    output: str | os.PathLike,
    *,
    ratings: Mapping[str, str] | None = None,
    judge: Judge | None = None,
    **options: Any,
) -> dict[str, Any] | None:
    """Answers, scores, and writes the results: `answer`, which has the options, then `finish`.

    Returns:
        The content of the results file; None if other processes have not finished: the last one writes it.
    """
    complete = answer(model, processor, jobs, output, **options)
    return finish(jobs, output, ratings=ratings, judge=judge) if complete else None


def answer(
    model: Any,
    processor: Any,
    jobs: Sequence[Job],
    output: str | os.PathLike,
    *,
    batch_size: int = 8,
    workers: int = 0,
    generation: Mapping[str, Any] | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    verbose: bool = True,
) -> bool:
    """Answers this process's share of the samples that have no answer yet, and stores each batch at once.

    A killed run continues when it is started again, also with another number of processes.

    Args:
        output: the results file; answers are stored next to it.
        batch_size: samples per run of the model.
        workers: processes that read media.
        generation: arguments of `generate`, such as `{"num_beams": 5}`. By default, decoding is greedy, so that a second
            run gives the same answers, and the task sets `max_new_tokens`.
        rank, world_size: of this process; from `accelerate launch` or `torchrun` by default.

    Returns:
        Whether all answers are stored, also those of other processes.

    Raises:
        ValueError, MediaError: a sample, named in the message, is incomplete; or there are answers of another model, or
            with other settings.
    """
    rank, world_size = place_among(rank, world_size)
    _check_jobs(jobs)
    model.eval()
    weights = model_fingerprint(model)
    shares = []
    for job in jobs:
        decoding = {"max_new_tokens": job.task.max_new_tokens, "num_beams": 1, **(generation or {})}
        decoding = decoding if job.task.output == "text" else None
        files = AnswerFiles(output, job.name, _settings(model, weights, job, decoding))
        done = {line["index"] for line in files.lines()}
        share = range(rank, job.count, world_size)
        todo = [index for index in share if index not in done]
        for index in todo:
            job.sample(index)  # raises before the first sample is answered
        silent, ready = not verbose or rank > 0, len(share) - len(todo)
        with tqdm(total=len(share), initial=ready, desc=job.name, unit="sample", disable=silent) as bar:
            batches = [todo[i : i + batch_size] for i in range(0, len(todo), batch_size)]
            for samples, inputs in read_ahead(batches, partial(_prepared, job, processor), workers):
                files.append(rank, _answered(model, processor, samples, inputs, decoding))
                bar.update(len(samples))
        shares.append((job, files))
    # Checked at the end, for all tasks: the last process finds that all answers are stored.
    return all(len(files.lines(job.count)) == job.count for job, files in shares)


def _check_jobs(jobs: Sequence[Job]) -> None:
    """Raises the errors of all tasks before the first one runs."""
    names = [job.name for job in jobs]
    if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ValueError(f"Two tasks have the name {repeated[0]!r} in the results: rename one of them.")
    for job in jobs:
        job.sample(0)


def _settings(model: Any, weights: str, job: Job, generation: dict[str, Any] | None) -> dict[str, Any]:
    """What the answers depend on."""
    return {
        "model": model.config.name_or_path,
        "weights": weights,
        "dtype": str(model.dtype).removeprefix("torch."),
        "task": job.kind,
        "data": job.fingerprint(),
        "prompt": job.prompt or job.task.prompt,
        "labels": list(job.labels),
        "generation": generation,
    }


def model_fingerprint(model: Any) -> str:
    """A hash over some values of each weight: further training changes it."""
    state = sorted(model.state_dict().items())
    return tensors_hash((f"{name} {tuple(tensor.shape)}", _some(tensor)) for name, tensor in state)[:16]


def _some(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_meta:  # weights offloaded to disk
        return torch.empty(0, dtype=tensor.dtype)
    return tensor.detach().reshape(-1)[:: max(1, tensor.numel() // 16)][:16]


# --- batches -----------------------------------------------------------------------------------------------------------


def _prepared(job: Job, processor: Any, indices: Sequence[int]) -> tuple[list[Sample], Any]:
    """Samples with their model inputs."""
    samples = [job.sample(index) for index in indices]
    try:
        return samples, _inputs(job, processor, samples)
    except (ValueError, OSError) as error:
        raise _located(job, processor, samples, error) from error


def _inputs(job: Job, processor: Any, samples: Sequence[Sample]) -> Any:
    if job.task.output == "text":
        return prompts(processor, [sample.messages for sample in samples])
    # One batch per position among the choices, so that memory holds the media of each sample once.
    collate, most = AnyModalityDataCollator(processor), max(len(sample.choices) for sample in samples)
    return [
        collate([_chosen(sample, place) for sample in samples if place < len(sample.choices)]) for place in range(most)
    ]


def _located(job: Job, processor: Any, samples: Sequence[Sample], error: Exception) -> Exception:
    """The error of a batch, with the name of its sample."""
    for sample in samples:
        try:
            _inputs(job, processor, [sample])
        except (ValueError, OSError) as found:
            name = "Sample 0" if job.task.output == "text" else name_of(0, _chosen(sample, 0), True)
            if isinstance(found, MediaError):
                return located(sample.where, found, f"{name}: ")
            return ValueError(f"{sample.where}: {str(found).removeprefix(name).lstrip(': ')}")
    return error


def prompts(processor: Any, chats: Sequence[list[dict[str, Any]]]) -> Any:
    """Model inputs of chats to answer, padded on the left."""
    return processor.apply_chat_template(
        chats,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding_side": "left"},
    )


def _chosen(sample: Sample, place: int) -> dict[str, Any]:
    return {"messages": [*sample.messages, {"role": "assistant", "content": sample.choices[place]}]}


# --- answers -----------------------------------------------------------------------------------------------------------


def _answered(model: Any, processor: Any, samples: Sequence[Sample], inputs: Any, generation: Any) -> list[dict]:
    """The stored lines of a batch."""
    if generation is None:
        answers = likelihoods(model, samples, inputs)
    else:
        answers = generated(model, processor, inputs, **{"do_sample": False, **generation})
    lines = []
    for sample, answer in zip(samples, answers, strict=True):
        names = ["index", "id", "question", "references", "kept", *(["choices"] if sample.choices else [])]
        lines.append({**{name: getattr(sample, name) for name in names}, **answer})
    return lines


@torch.inference_mode()
def generated(model: Any, processor: Any, inputs: Any, **generation: Any) -> list[dict[str, Any]]:
    """`{"answer": text}` of each sample."""
    inputs = inputs.to(model.device)
    output = model.generate(**inputs, **generation)
    new = output[:, inputs["input_ids"].shape[1] :]
    return [{"answer": text.strip()} for text in processor.batch_decode(new, skip_special_tokens=True)]


@torch.inference_mode()
def likelihoods(model: Any, samples: Sequence[Sample], inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`{"answer": likeliest choice, "log_likelihoods": of each choice, "tokens": of each choice}` of each sample.

    A choice's likelihood is over the tokens that training would label: its words and the end of the answer.
    """
    found: list[list[tuple[float, int]]] = [[] for _ in samples]
    for place, batch in enumerate(inputs):
        asked = [i for i, sample in enumerate(samples) if place < len(sample.choices)]
        for i, value in zip(asked, _log_likelihoods(model, batch), strict=True):
            found[i].append(value)
    answers = []
    for sample, values in zip(samples, found, strict=True):
        sums, tokens = map(list, zip(*values, strict=True))
        best = sample.choices[sums.index(max(sums))]
        answers.append({"answer": best, "log_likelihoods": sums, "tokens": tokens})
    return answers


def _log_likelihoods(model: Any, batch: dict[str, torch.Tensor]) -> list[tuple[float, int]]:
    """Log-likelihood of the labelled tokens of each row, and their number."""
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
