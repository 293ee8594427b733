"""`anymodality evaluate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anymodality.commands import _options as options
from anymodality.commands._base import (
    ListingCommand,
    is_alone,
    load_model,
    load_processor,
    print_json,
    run_in_processes,
    tell,
)
from anymodality.commands._options import argument, option


if TYPE_CHECKING:
    from transformers_anymodality.evaluation import Job


class CLASS(ListingCommand):
    """Ends with the tasks and suites."""

    def listing(self) -> str:
        from transformers_anymodality.evaluation import SUITES, TASKS

        lines = ["Tasks, and the columns that may hold the right answer (the first one found is used):"]
        for name, task in TASKS.items():
            columns = ", ".join(dict.fromkeys(task.references))
            needed = f"answers: {columns}" if task.needs_references else "no answers needed"
            lines += [f"  {name:<24} {task.help}", f"  {'':<24} {needed}"]
        lines += ["Suites, and the files of their benchmarks:"]
        lines += [f"  {name}: {', '.join(f'{one}.jsonl' for one in files)}" for name, files in SUITES.items()]
        return "\n".join(lines)


Tasks = Annotated[
    list[str] | None, option("NAMES", "Tasks, separated by commas, or one suite; NAME:TASK gives a task a name.")
]
Data = Annotated[list[str] | None, option("FILES", "One file or Hub id per task, in order, or one for all.")]
Prompt = Annotated[str | None, option("TEXT", "Prompt instead of the task's, with {question} and {choices}.")]
Compare = Annotated[tuple[str, str] | None, option("A.json B.json", "Two results to compare, by paired bootstrap.")]


def evaluate(
    ctx: typer.Context,
    directory: Annotated[str | None, argument("DIR", "Model: a folder or Hub id.")] = None,
    tasks: Tasks = None,
    data: Data = None,
    output: Annotated[str | None, option("FILE", "JSON file of results; answers are saved next to it.")] = None,
    batch_size: Annotated[int, option("N", "Batch size.", min=1)] = 8,
    num_processes: options.NumProcesses = 1,
    workers: options.Workers = 0,
    limit: Annotated[int | None, option("N", "Number of samples; default: all.", min=1)] = None,
    max_new_tokens: Annotated[
        int | None, option("N", "Maximum number of tokens in an answer; default: the task's.", min=1)
    ] = None,
    num_beams: Annotated[int, option("N", "Number of beams; 1 = greedy decoding.", min=1)] = 1,
    prompt: Prompt = None,
    labels: Annotated[
        str | None, option("NAMES", "Choices for samples without their own, separated by commas.")
    ] = None,
    media_root: options.MediaRoot = None,
    split: options.Split = "test",
    dtype: options.DType = "auto",
    page: Annotated[int, option("N", "Number of samples on the HTML page of each task.", min=0)] = 50,
    ratings: Annotated[
        list[str] | None, option("FILE", "File of ratings for a rated task: FILE or TASK=FILE.")
    ] = None,
    judge: Annotated[
        str | None, option("URL", "URL of a judge, OpenAI-compatible, with /v1; key: OPENAI_API_KEY.")
    ] = None,
    judge_model: Annotated[str, option("NAME", "Name of the judge's model.")] = "default",
    compare: Compare = None,
    as_json: options.Json = False,
    module: options.Import = None,
    only_answer: Annotated[bool, typer.Option("--only-answer", hidden=True)] = False,
) -> None:
    """Evaluate a model: ask, keep the answers, and score them.

    \b
      anymodality evaluate my-model --tasks vqa --data vqa.jsonl --output results.json --media-root coco/val2014
      anymodality evaluate my-model --tasks captioning,asr --data coco.jsonl,librispeech.jsonl --output results.json
      anymodality evaluate my-model --tasks dogs:classification --data dogs.jsonl --labels "poodle,beagle" --output r.json
      torchrun --nnodes 2 --nproc_per_node 8 ... -m anymodality.cli evaluate my-model ...    # on several machines
      anymodality evaluate --compare before.json after.json

    A record is a chat (`messages`; the last answer is the reference), or flat: {"id": 7, "image": "7.jpg", "question":
    "What is it?", "answers": ["dog", "a dog"]}, with any media by name. If it is killed, run the
    same command again: it continues. results.samples has every answer, and a page of samples with their media.

    For a suite, --data is a folder with the files of its benchmarks; missing ones are left out. For tasks that people rate,
    it writes a page to rate answers on; then run it again with --ratings ratings.jsonl. Judged tasks need --judge URL
    --judge-model NAME, or --ratings.
    """
    if compare is not None:
        return _compare(compare, as_json)
    if not (directory and tasks and data and output):
        raise typer.BadParameter("Give DIR, --tasks, --data and --output; or --compare A.json B.json.", ctx)
    from transformers_anymodality.evaluation import Judge, answer, finish

    shared = dict(prompt=prompt, labels=_split([labels or ""]), media_root=media_root, limit=limit, split=split)
    jobs, processor = _jobs(_split(tasks), data, shared), load_processor(directory)
    raters = dict(ratings=_ratings(ratings or [], jobs), judge=Judge(judge, judge_model) if judge else None)
    sizes = dict(batch_size=batch_size, workers=workers, max_new_tokens=max_new_tokens, num_beams=num_beams)
    if num_processes > 1 and is_alone():
        run_in_processes(ctx, "--only-answer")
    elif not answer(load_model(directory, dtype), processor, jobs, output, **sizes) or only_answer:
        return None
    results = finish(jobs, output, **raters)
    _write_pages(directory, processor, jobs, output, page)
    return print_json(results) if as_json else tell(_table(jobs, results, output))


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
        raise ValueError(f"{len(tasks)} tasks, but {len(files)} files of data: give one for each, or one for all.")
    named = [task.rpartition(":") for task in tasks]
    return [Job(kind, file, name=name, **shared) for (name, _, kind), file in zip(named, files, strict=True)]


def _ratings(given: Sequence[str], jobs: "Sequence[Job]") -> dict[str, str]:
    """Task -> file, from FILE or TASK=FILE."""
    rated = [job.name for job in jobs if job.task.rating]
    found = {}
    for one in given:
        name, equals, file = one.partition("=")
        if not equals and len(rated) != 1:
            raise ValueError(f"--ratings {one}: say which task's they are, TASK=FILE; rated are {rated or 'none'}.")
        found[name if equals else rated[0]] = file if equals else one
    return found


def _write_pages(directory: str, processor: Any, jobs: "Sequence[Job]", output: str, count: int) -> None:
    from transformers_anymodality.evaluation.pages import write_rating_page, write_samples_page
    from transformers_anymodality.evaluation.results import AnswerFiles
    from transformers_anymodality.utils.files import json_lines

    for job in jobs:
        files = AnswerFiles(output, job.name)
        if count:
            write_samples_page(files.folder / f"{job.name}.html", job, processor, files, count)
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


def _compare(files: tuple[str, str], as_json: bool) -> None:
    from transformers_anymodality.evaluation.comparing import as_table, compare

    found = compare(*files)
    return print_json([vars(one) for one in found]) if as_json else tell(as_table(found))
