"""Answers stored sample by sample, so that a killed run continues, and a run can be scored again; their ratings, from a
file or a judge; and their scores.

Next to `results.json` is a folder `results.samples`. It has three kinds of files per task: `<task>.json`, what its answers
depend on; `<task>.<rank>.jsonl`, to which each process appends a line per sample; `<task>.ratings.jsonl`, their ratings.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from anymodality.plain.files import read_json

from ..data.datasets import open_records
from ..utils.files import json_lines, write_json
from ..utils.upstream import httpx
from .jobs import Job
from .tasks import Lines, Rating, score, score_groups


_AT_ONCE = 4  # parallel requests to a judge


class AnswerFiles:
    """The answers of one task.

    Args:
        output: the results file.
        task: its name.
        settings: what answers depend on, as JSON values; None to read only.

    Raises:
        ValueError: existing answers have other settings.
    """

    def __init__(self, output: str | os.PathLike, task: str, settings: Mapping[str, Any] | None = None):
        self.folder, self.task = Path(output).with_suffix(".samples"), task
        if settings is None:
            return
        place = self.folder / f"{task}.json"
        if not place.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(place, settings)
        before = self.settings()
        for name in {*settings, *before} - {"model"}:  # a folder may have many paths; models are compared by weights
            if settings.get(name) != before.get(name):
                raise ValueError(
                    f"{self.folder} holds answers of {task} with {name}={before.get(name)!r}, not "
                    f"{settings.get(name)!r}: choose another output, or delete {place.stem}.* there."
                )

    def settings(self) -> dict[str, Any]:
        return read_json(self.folder / f"{self.task}.json")

    def append(self, writer: int | str, lines: Iterable[Mapping[str, Any]]) -> None:
        """Writes lines so that they survive this process; lines of the writer "ratings" are `{"index", "rating"}`."""
        with (self.folder / f"{self.task}.{writer}.jsonl").open("ab+") as file:
            # An incomplete last line of a killed process is cut off.
            file.seek(max(0, file.tell() - 1))
            if file.read() not in (b"", b"\n"):
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
            file.write(json_lines(lines).encode())

    def lines(self, count: int | None = None) -> list[dict[str, Any]]:
        """The lines of the first `count` samples, from all processes, in the order of samples, each with its last `rating`
        if there is one; incomplete lines are left out."""
        found: dict[int, dict[str, Any]] = {}
        for path in sorted(self.folder.glob(f"{self.task}.[0-9]*.jsonl")):
            found |= {line["index"]: line for line in _read(path)}
        for line in _read(self.folder / f"{self.task}.ratings.jsonl"):
            if line["index"] in found:
                found[line["index"]]["rating"] = line["rating"]
        return [found[index] for index in sorted(found) if count is None or index < count]


def _read(path: Path) -> Iterator[dict[str, Any]]:
    *whole, _ = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else [""]
    for number, text in enumerate(whole, 1):
        try:
            yield json.loads(text)
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number} is not JSON ({error}): delete the line, and the sample is answered again."
            ) from None


# --- ratings -------------------------------------------------------------------------------------------------------------


def read_ratings(path: str | Path, rating: Rating, lines: Lines) -> list[dict[str, Any]]:
    """`{"index": of a sample, "rating": its rating}` for each record of a JSON or JSONL file.

    Args:
        path: each record names its sample by `question_id` or `id`, and has the fields that the task's `rating` reads.
        lines: the answers.

    Raises:
        ValueError: a record, named by its place, belongs to no sample or has no rating.
    """
    places = {str(line["id"]): line["index"] for line in lines}
    found = []
    for number, record in enumerate(open_records(path)):
        where = f"{path}, record {number}"
        known = next((record[key] for key in ("question_id", "id") if record.get(key) is not None), None)
        if str(known) not in places:
            raise ValueError(f"{where} rates the id {known!r}, but no answer has this id.")
        try:
            found.append({"index": places[str(known)], "rating": rating.read(record)})
        except ValueError as error:
            raise ValueError(f"{where} (id {known!r}): {error}") from None
    return found


@dataclass(frozen=True)
class Judge:
    """A language model behind an endpoint that rates answers with the task's prompt.

    Args:
        url: URL including the version, such as `http://localhost:8000/v1`; the key is read from OPENAI_API_KEY.
        model: the endpoint's name for it.
        attempts: number of tries to get a readable review.
        timeout: in seconds.
    """

    url: str
    model: str
    attempts: int = 3
    timeout: float = 120

    def __post_init__(self):
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"The judge's URL is {self.url!r}; it must begin with http:// or https://.")

    def reviews(self, rating: Rating, lines: Lines) -> Iterator[dict[str, Any]]:
        """`{"index", "rating"}` of each of these answers, in the order of arrival."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = pool.map(lambda line: self._review(rating, line), lines)
            yield from tqdm(found, total=len(lines), desc="judge", unit="answer")

    def _review(self, rating: Rating, line: Mapping[str, Any]) -> dict[str, Any]:
        prompt = rating.prompt.format(
            question=line["question"],
            context=line["kept"].get("context", "(nothing is given)"),
            reference=line["references"][0],
            answer=line["answer"],
        )
        problem = ValueError("the judge was not called.")
        for attempt in range(self.attempts):
            try:
                return {"index": line["index"], "rating": rating.parse(self._ask(prompt, seed=attempt))}
            except ValueError as error:
                problem = error
        raise ValueError(f"The judge's review of sample {line['index']} (id {line['id']!r}): {problem}")

    def _ask(self, prompt: str, seed: int) -> str:
        messages = [{"role": "user", "content": prompt}]
        body = {"model": self.model, "messages": messages, "temperature": 0.0 if not seed else 0.7, "seed": seed}
        key, url = os.environ.get("OPENAI_API_KEY"), f"{self.url.rstrip('/')}/chat/completions"
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            answer = httpx.post(url, json=body, headers=headers, timeout=self.timeout)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise OSError(f"The judge at {url} does not answer: {error}") from None
        if not answer.is_success:
            raise OSError(f"The judge at {url} answers {answer.status_code}: {answer.text[:300]}")
        try:
            return answer.json()["choices"][0]["message"]["content"] or ""
        except (KeyError, IndexError, TypeError):
            raise OSError(f"The judge at {url} does not answer with a chat completion: {answer.text[:300]}") from None


# --- scores ------------------------------------------------------------------------------------------------------------


def finish(
    jobs: Sequence[Job],
    output: str | os.PathLike,
    *,
    ratings: Mapping[str, str] | None = None,
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Scores answers, which must all be stored; needs no model.

    Args:
        output: JSON file; results of other tasks in it stay.
        ratings: name of a rated task -> file with ratings, see `read_ratings`.
        judge: rates the answers of tasks that have a judge's prompt, unless a file does.

    Returns:
        The content of the file.
    """
    ratings = ratings or {}
    for name in ratings:
        if not any(job.name == name and job.task.rating for job in jobs):
            raise ValueError(f"Ratings are given for {name!r}, which is not a rated task of this run.")
    results = {}
    for job in jobs:
        files, rating = AnswerFiles(output, job.name), job.task.rating
        lines = files.lines(job.count)
        if rating and job.name in ratings:
            files.append("ratings", read_ratings(ratings[job.name], rating, lines))
        elif rating and rating.prompt and judge is not None:
            for found in judge.reviews(rating, [line for line in lines if "rating" not in line]):
                files.append("ratings", [found])  # at once, so that no paid rating is lost
        results[job.name] = _result(job, files)
    return _write(Path(output), results)


def _result(job: Job, files: AnswerFiles) -> dict[str, Any]:
    task, lines = job.task, files.lines(job.count)
    rated = {"rated": sum("rating" in line for line in lines)} if task.rating else {}
    return {
        **files.settings(),
        "samples": len(lines),
        **rated,
        "empty_answers": sum(not line["answer"] for line in lines),
        "metrics": score(task, lines),
        **({"groups": groups} if (groups := score_groups(task, lines)) else {}),
        "answers": f"{files.folder.name}/{job.name}.*.jsonl",
    }


def _write(path: Path, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Adds results to the file, which holds results of one model only."""
    tasks = (read_results(path)["tasks"] if path.exists() else {}) | results
    models = {one["weights"]: one["model"] for one in tasks.values()}
    if len(models) > 1:
        names = ", ".join(f"{name} ({weights})" for weights, name in models.items())
        raise ValueError(f"{path} would hold results of several models, {names}: choose another output.")
    (model,) = models.values()
    found = {"model": model, "tasks": tasks}
    write_json(path, found)
    return found


def read_results(path: str | os.PathLike) -> dict[str, Any]:
    """The content of a file that `finish` wrote.

    Raises:
        ValueError: another file.
    """
    try:
        found = read_json(path)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("tasks"), dict):
        raise ValueError(f"{path} is not a results file of `anymodality evaluate`.")
    return found


def read_answers(path: str | os.PathLike, name: str) -> list[dict[str, Any]]:
    """The answers to a task of a results file, in the order of samples, with their ratings."""
    return AnswerFiles(path, name).lines(read_results(path)["tasks"][name]["samples"])
