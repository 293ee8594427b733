"""Ratings of answers: from a file, or by a judge, any endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data.datasets import open_records
from ..utils.upstream import httpx
from .tasks import Lines, Rating


_AT_ONCE = 4  # requests to a judge


def read_ratings(path: str | Path, rating: Rating, lines: Lines) -> list[dict[str, Any]]:
    """`{"index": of a sample, "rating": its rating}` of each record of JSON or JSONL.

    Args:
        path: each record names its sample by `question_id` or `id`, and has what the task's `rating` reads.
        lines: the answers.

    Raises:
        ValueError: a record of no sample, or without a rating, by its place.
    """
    places = {str(line["id"]): line["index"] for line in lines}
    found = []
    for number, record in enumerate(open_records(path)):
        where = f"{path}, record {number}"
        known = next((record[key] for key in ("question_id", "id") if record.get(key) is not None), None)
        if str(known) not in places:
            raise ValueError(f"{where} rates {known!r}, which no answer has for its id.")
        try:
            found.append({"index": places[str(known)], "rating": rating.read(record)})
        except ValueError as error:
            raise ValueError(f"{where} (id {known!r}): {error}") from None
    return found


@dataclass(frozen=True)
class Judge:
    """A language model behind an endpoint that rates answers, as the task asks it to.

    Args:
        url: up to and with the version, such as `http://localhost:8000/v1`; the key is OPENAI_API_KEY's.
        model: the endpoint's name for it.
        attempts: to get a review that can be read.
        timeout: in seconds.
    """

    url: str
    model: str
    attempts: int = 3
    timeout: float = 120

    def __post_init__(self):
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"The judge's URL is {self.url!r}, expected http:// or https://.")

    def reviews(self, rating: Rating, lines: Lines) -> Iterator[dict[str, Any]]:
        """`{"index", "rating"}` of each of these answers, as they come."""
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
        problem = ValueError("the judge was not asked.")
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
            raise OSError(f"The judge at {url} answers with no chat completion: {answer.text[:300]}") from None
