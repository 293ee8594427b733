"""`anymodality evaluate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anymodality.commands import _options as options
from anymodality.commands._base import is_alone, load_model, load_processor, named_values, run_in_processes, tell
from anymodality.commands._options import listing, option


if TYPE_CHECKING:
    from transformers_anymodality.evaluation import Job


_PAGE = 50  # samples on the HTML page of each task


def _tasks() -> str:
    from transformers_anymodality.evaluation import SUITES, TASKS

    lines = ["Tasks, and the columns that may hold the right answer (the first one found is used):"]
    for name, task in TASKS.items():
        columns = ", ".join(dict.fromkeys(task.references))
        needed = f"answers: {columns}" if task.needs_references else "no answers needed"
        lines += [f"  {name:<24} {task.help}", f"  {'':<24} {needed}"]
    lines += ["Suites, and the files of their benchmarks:"]
    lines += [f"  {name}: {', '.join(f'{one}.jsonl' for one in files)}" for name, files in SUITES.items()]
    return "\n".join(lines)


Tasks = Annotated[list[str], option("NAMES", "Tasks, separated by commas, or a suite; NAME:TASK names one.")]
Data = Annotated[list[str], option("FILES", "One file or Hub id per task, in order, or one for all.")]
Prompt = Annotated[str | None, option("TEXT", "Prompt, with {question} and {choices}.")]


def evaluate(
    ctx: typer.Context,
    directory: options.Source,
    tasks: Tasks,
    data: Data,
    output: Annotated[str, option("FILE", "JSON file of results, next to the answers.")],
    batch_size: Annotated[int, option("N", "Batch size.", min=1)] = 8,
    num_processes: options.NumProcesses = 1,
    workers: options.Workers = 0,
    limit: Annotated[int | None, option("N", "Number of samples; default: all.", min=1)] = None,
    generation: Annotated[
        list[str] | None, option("NAME=VALUE", "Setting of `generate`: max_new_tokens=32, num_beams=5; repeatable.")
    ] = None,
    prompt: Prompt = None,
    labels: Annotated[str | None, option("NAMES", "Choices for samples without their own.")] = None,
    media_root: options.MediaRoot = None,
    split: options.Split = "test",
    dtype: options.DType = "auto",
    ratings: Annotated[list[str] | None, option("[TASK=]FILE", "File of ratings for a rated task.")] = None,
    judge: Annotated[
        tuple[str, str] | None, option("URL MODEL", "Judge with OpenAI's API; key: OPENAI_API_KEY.")
    ] = None,
    module: options.Import = None,
    names: Annotated[bool, listing(_tasks, "List tasks and suites, and exit.")] = False,
) -> None:
    """Evaluate a model: generate answers, store them, and score them.

    If it is killed, run it again: it continues. A suite reads a folder.

    Example:
      anymodality evaluate my-model --tasks vqa --data vqa.jsonl --output r.json
    """
    from transformers_anymodality.evaluation import Judge, answer, finish

    shared = dict(prompt=prompt, labels=_split([labels or ""]), media_root=media_root, limit=limit, split=split)
    jobs, processor = _jobs(_split(tasks), data, shared), load_processor(directory)
    raters = dict(ratings=_ratings(ratings or [], jobs), judge=Judge(*judge) if judge else None)
    sizes = dict(batch_size=batch_size, workers=workers, generation=named_values(generation))
    if num_processes > 1 and is_alone():
        run_in_processes(ctx)
    elif not answer(load_model(directory, dtype), processor, jobs, output, **sizes) or num_processes > 1:
        return None  # processes from `num_processes` leave the rest to the parent process
    results = finish(jobs, output, **raters)
    _write_pages(directory, processor, jobs, output)
    tell(_table(jobs, results, output))


def _split(values: Sequence[str]) -> list[str]:
    return [name.strip() for value in values for name in value.split(",") if name.strip()]


def _jobs(tasks: Sequence[str], data: Sequence[str], shared: dict[str, Any]) -> "list[Job]":
    from transformers_anymodality.evaluation import Job
    from transformers_anymodality.evaluation.tasks import SUITES, suite_files

    if len(tasks) == len(data) == 1 and tasks[0] in SUITES:
        tasks, data = zip(*suite_files(tasks[0], data[0]).items(), strict=True)
    files = [file for value in data for file in ([value] if Path(value).exists() else _split([value]))]
    files = files * len(tasks) if len(files) == 1 else files
    if len(files) != len(tasks):
        raise ValueError(
            f"There are {len(tasks)} tasks, but {len(files)} data files: give one for each, or one for all."
        )
    named = [task.rpartition(":") for task in tasks]
    return [Job(kind, file, name=name, **shared) for (name, _, kind), file in zip(named, files, strict=True)]


def _ratings(given: Sequence[str], jobs: "Sequence[Job]") -> dict[str, str]:
    """Task -> file, from FILE or TASK=FILE."""
    rated = [job.name for job in jobs if job.task.rating]
    found = {}
    for one in given:
        name, equals, file = one.partition("=")
        if not equals and len(rated) != 1:
            raise ValueError(f"--ratings {one}: the task is unclear, give TASK=FILE; rated tasks: {rated or 'none'}.")
        found[name if equals else rated[0]] = file if equals else one
    return found


def _write_pages(directory: str, processor: Any, jobs: "Sequence[Job]", output: str) -> None:
    from transformers_anymodality.evaluation.pages import write_rating_page, write_samples_page
    from transformers_anymodality.evaluation.results import AnswerFiles
    from transformers_anymodality.utils.files import json_lines

    for job in jobs:
        files = AnswerFiles(output, job.name)
        write_samples_page(files.folder / f"{job.name}.html", job, processor, files, _PAGE)
        if job.task.rating and job.task.rating.choices:
            write_rating_page(files.folder / f"{job.name}.rate.html", job, processor, files)
        if job.task.released:
            released = (job.task.released(line, directory) for line in files.lines())
            (files.folder / f"{job.name}.answers.jsonl").write_text(json_lines(released), encoding="utf-8")


def _table(jobs: "Sequence[Job]", results: dict[str, Any], output: str) -> str:
    lines = [f"{'task':<24} {'samples':>7}  metrics"]
    for job in jobs:
        found = results["tasks"][job.name]
        count = f"{found['samples']:>7,}"
        lines.append(f"{job.name:<24} {count}  {_numbers(found['metrics'])}")
        if found["empty_answers"]:
            lines.append(f"{'':<24} {found['empty_answers']:>7,}  of the answers are empty")
        if job.task.rating and found["rated"] < found["samples"]:
            lines.append(f"{'':<24} {found['rated']:>7,}  are rated; see --ratings and --judge in --help")
        for column, groups in found.get("groups", {}).items():
            lines += [
                f"  {f'{column} {value}':<22} {group['samples']:>7,}  {_numbers(group)}"
                for value, group in groups.items()
            ]
    return "\n".join([*lines, f"{output}, and {Path(output).with_suffix('.samples')}/ with all answers and pages"])


def _numbers(metrics: dict[str, float]) -> str:
    shown = (f"{name} {value:.4g}" for name, value in metrics.items() if name != "samples" and value is not None)
    return ", ".join(shown) or "-"
