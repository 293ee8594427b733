"""Ratings of answers: from a file, or by a judge, any endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data.files import open_records
from .answer_files import AnswerFiles
from .tasks import Rating


def read_ratings(path: str | Path, rating: Rating, lines: Sequence[Mapping[str, Any]]) -> dict[int, Any]:
    """Index of a sample -> its rating, from JSON or JSONL.

    Args:
        path: each record names its sample by `question_id` or `id`, and has what the task's `rating` reads.
        lines: the answers.

    Raises:
        ValueError: a record of no sample, or without a rating, by its place.
    """
    places = {str(line["id"]): line["index"] for line in lines}
    found = {}
    records = open_records(path)
    for number in range(len(records)):
        record, where = records[number], f"{path}, record {number}"
        known = next((record[key] for key in ("question_id", "id") if record.get(key) is not None), None)
        if str(known) not in places:
            raise ValueError(f"{where} rates {known!r}, which no answer has for its id.")
        try:
            found[places[str(known)]] = rating.read(record)
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
    """

    url: str
    model: str
    attempts: int = 3
    timeout: float = 120

    def __post_init__(self):
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"The judge's URL is {self.url!r}, expected http:// or https://.")

    def rate(
        self, files: AnswerFiles, rating: Rating, lines: Sequence[Mapping[str, Any]], *, at_once: int = 4
    ) -> None:
        """Rates the answers that have no rating yet, each kept at once, so that what was paid for is not lost."""
        done = files.ratings()
        todo = [line for line in lines if line["index"] not in done]
        with ThreadPoolExecutor(at_once) as pool:
            reviews = pool.map(lambda line: self._review(rating, line), todo)
            for line, found in zip(todo, tqdm(reviews, total=len(todo), desc="judge", unit="answer"), strict=True):
                files.rate({line["index"]: found})

    def _review(self, rating: Rating, line: Mapping[str, Any]) -> Any:
        prompt = rating.prompt.format(
            question=line["question"],
            context=line["kept"].get("context", "(nothing is given)"),
            reference=line["references"][0],
            answer=line["answer"],
        )
        found = ValueError("the judge was not asked.")
        for attempt in range(self.attempts):
            try:
                return rating.parse(self._ask(prompt, seed=attempt))
            except ValueError as error:
                found = error
        raise ValueError(f"The judge's review of sample {line['index']} (id {line['id']!r}): {found}")

    def _ask(self, prompt: str, seed: int) -> str:
        messages = [{"role": "user", "content": prompt}]
        body = {"model": self.model, "messages": messages, "temperature": 0.0 if not seed else 0.7, "seed": seed}
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        url = f"{self.url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                reply = json.load(answer)
        except urllib.error.HTTPError as error:
            raise OSError(
                f"The judge at {url} answers {error.code}: {error.read(300).decode(errors='replace')}"
            ) from None
        except urllib.error.URLError as error:
            raise OSError(f"The judge at {url} does not answer: {error.reason}") from None
        try:
            return reply["choices"][0]["message"]["content"] or ""
        except (KeyError, IndexError, TypeError):
            raise OSError(f"The judge at {url} answers with no chat completion: {str(reply)[:300]}") from None
