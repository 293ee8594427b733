"""Runs a model over the samples of tasks, and scores its answers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..utils.files import read_json, write_json
from ..utils.processes import place_among, read_ahead
from ..utils.upstream import name_or_path
from .answer_files import AnswerFiles
from .answering import Batches, generated, likelihoods
from .jobs import Job, model_fingerprint
from .ratings import Judge, read_ratings
from .samples import Sample
from .tasks import score, score_groups


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
    """Answers, scores, and writes what came of it: `answer`, then `finish`.

    Args:
        output: JSON file; what was in it of other tasks stays. Answers are in `<output>.samples` beside it.
        ratings, judge: of `finish`.
        options: of `answer`.

    Returns:
        What is in the file; None if other processes have not finished: the last one writes it.
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
    max_new_tokens: int | None = None,
    num_beams: int = 1,
    rank: int | None = None,
    world_size: int | None = None,
    verbose: bool = True,
) -> bool:
    """Answers this process's share of the samples that have no answer yet, and keeps each batch at once.

    Killed, a run goes on where it was when it is started again, also with another number of processes.

    Args:
        batch_size: samples per run of the model.
        workers: processes that read media.
        max_new_tokens: of an answer; the task's by default. Answers are greedy (or by `num_beams`), hence the same again.
        rank, world_size: of this process; from `accelerate launch` or `torchrun` by default.

    Returns:
        Whether all answers are there, other processes' too.

    Raises:
        ValueError, MediaError: a sample that lacks something, by its name; or answers are there of another model, or
            under other settings.
    """
    rank, world_size = place_among(rank, world_size)
    check_jobs(jobs)
    model.eval()
    weights = model_fingerprint(model)
    shares = []
    for job in jobs:
        generation = {"max_new_tokens": max_new_tokens or job.task.max_new_tokens, "num_beams": num_beams}
        files = AnswerFiles(samples_folder(output), job.name, _settings(model, weights, job, generation))
        share = [index for index in range(job.count) if index % world_size == rank]
        done = files.read()
        todo = [index for index in share if index not in done]
        for index in todo:
            job.sample(index)  # raises, before the first is answered
        silent, ready = not verbose or rank > 0, len(share) - len(todo)
        with tqdm(total=len(share), initial=ready, desc=job.name, unit="sample", disable=silent) as bar:
            for lines in _answered(model, processor, job, todo, batch_size, workers, generation):
                files.append(rank, lines)
                bar.update(len(lines))
        shares.append((job, files))
    # Asked last, and of all tasks: whichever process ends last sees that all is there.
    return all(sum(index < job.count for index in files.read()) == job.count for job, files in shares)


def _settings(model: Any, weights: str, job: Job, generation: Mapping[str, Any]) -> dict[str, Any]:
    """What the answers depend on."""
    return {
        "model": name_or_path(model.config),
        "weights": weights,
        "dtype": str(model.dtype).removeprefix("torch."),
        "task": job.kind,
        "data": job.fingerprint(),
        "prompt": job.prompt or job.task.prompt,
        "labels": list(job.labels),
        "generation": dict(generation) if job.task.output == "text" else None,
    }


def check_jobs(jobs: Sequence[Job]) -> None:
    """What would stop a later task stops the first."""
    names = [job.name for job in jobs]
    if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ValueError(f"Two tasks would be {repeated[0]!r} in the results: call one of them by another name.")
    for job in jobs:
        job.sample(0)


def _answered(
    model: Any,
    processor: Any,
    job: Job,
    todo: Sequence[int],
    batch_size: int,
    workers: int,
    generation: Mapping[str, Any],
) -> Iterator[list[dict[str, Any]]]:
    batches = Batches(job, processor, [todo[i : i + batch_size] for i in range(0, len(todo), batch_size)])
    for samples, inputs in read_ahead(batches, workers):
        if job.task.output == "text":
            answers = generated(model, processor, inputs, do_sample=False, **generation)
        else:
            answers = likelihoods(model, samples, inputs)
        yield [{**_line(sample), **answer} for sample, answer in zip(samples, answers, strict=True)]


def _line(sample: Sample) -> dict[str, Any]:
    return {
        "index": sample.index,
        "id": sample.id,
        "question": sample.question,
        "references": sample.references,
        "kept": sample.kept,
        **({"choices": sample.choices} if sample.choices else {}),
    }


# --- results -----------------------------------------------------------------------------------------------------------


def finish(
    jobs: Sequence[Job],
    output: str | os.PathLike,
    *,
    ratings: Mapping[str, str] | None = None,
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Scores answers that are all there; needs no model.

    Args:
        ratings: name of a task that is rated -> file with ratings, see `read_ratings`.
        judge: rates the answers of tasks that say what to ask it, where no file does.
    """
    for name in ratings or {}:
        if not any(job.name == name and job.task.rating for job in jobs):
            raise ValueError(f"There are ratings for {name!r}, which is no task here that is rated.")
    results = {}
    for job in jobs:
        files = AnswerFiles(samples_folder(output), job.name)
        lines = files.rated(job.count)
        if job.task.rating and job.name in (ratings or {}):
            files.rate(read_ratings(ratings[job.name], job.task.rating, lines))
        elif job.task.rating and job.task.rating.prompt and judge is not None:
            judge.rate(files, job.task.rating, lines)
        results[job.name] = _result(job, files)
    return _write(output, results)


def _result(job: Job, files: AnswerFiles) -> dict[str, Any]:
    settings, task = files.settings(), job.task
    lines = files.rated(job.count)
    rated = {"rated": sum("rating" in line for line in lines)} if task.rating else {}
    return {
        **settings,
        "samples": len(lines),
        **rated,
        "empty_answers": sum(not line["answer"] for line in lines),
        "metrics": score(task, lines),
        **({"groups": groups} if (groups := score_groups(task, lines)) else {}),
        "answers": f"{files.folder.name}/{job.name}.*.jsonl",
    }


def samples_folder(output: str | os.PathLike) -> Path:
    return Path(output).with_suffix(".samples")


def _write(output: str | os.PathLike, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Adds to what is there; a file is of one model."""
    path = Path(output)
    tasks = read_results(path)["tasks"] if path.exists() else {}
    models = {one["weights"]: one["model"] for one in {**tasks, **results}.values()}
    if len(models) > 1:
        names = ", ".join(f"{name} ({weights})" for weights, name in models.items())
        raise ValueError(f"{path} would hold results of several models, {names}: choose another output.")
    (model,) = models.values()
    found = {"model": model, "tasks": {**tasks, **results}}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, found)
    return found


def read_results(path: str | os.PathLike) -> dict[str, Any]:
    """What `evaluate` wrote.

    Raises:
        ValueError: another file.
    """
    try:
        found = read_json(path)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("tasks"), dict):
        raise ValueError(f"{path} holds no results of an evaluation.")
    return found


def read_answers(path: str | os.PathLike, name: str) -> list[dict[str, Any]]:
    """The answers to a task of a results file, in the order of samples, with their ratings."""
    return AnswerFiles(samples_folder(path), name).rated(read_results(path)["tasks"][name]["samples"])
