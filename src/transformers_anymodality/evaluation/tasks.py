"""Kinds of tasks: the prompt, how the model answers, and the scores of its answers.

A benchmark is a kind with its own prompt and columns, registered under its name: `register_task("vqav2", ...)`.
"""

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.registry import LazyRegistry
from .scores import SCORES, normalize_answer


Lines = Sequence[Mapping[str, Any]]
Reader = Callable[[Lines], list[Any]]
QUESTIONS = ("question", "prompt", "instruction", "input")
_ANSWERS = ("references", "answers", "answer", "response", "label", "target")


@dataclass(frozen=True)
class Rating:
    """
    Args:
        read: a record of a file of ratings -> its rating, or ValueError.
        choices: choices on the rating page, and their meanings; without choices, no page is written.
        prompt: prompt for a judge, with `{question}`, `{context}`, `{reference}` and `{answer}`; None: no judge.
        parse: the judge's reply -> the rating; after a ValueError, the judge is called again.
    """

    read: Callable[[Mapping[str, Any]], Any]
    choices: Mapping[str, str] = field(default_factory=dict)
    prompt: str | None = None
    parse: Callable[[str], Any] | None = None


@dataclass(frozen=True)
class Task:
    """
    Args:
        help: one line.
        prompt: the user's text after the media of a flat record; `{question}` is its question, `{choices}` are its
            choices, one per line with a letter. Records that are chats keep their own text.
        output: "text" (the answer is generated) or "likelihood" (of each choice, as the answer).
        metrics: name -> (name of a score, function from the task's answers to its predictions).
        questions, references: columns that may hold the question, the right answers; the first that exists is used.
        choices: the same choices for every sample, or None if each record has its own.
        needs_references: whether a sample without references is an error.
        rating: how people or a judge rate answers, or None. With ratings, metrics cover only rated answers.
        keeps: columns that are stored with the answers.
        groups: columns among `keeps`; metrics are also given for each of their values.
        max_new_tokens: default length limit of an answer.
        expand: turns the data's records into the task's records, if a record has several questions.
        released: turns a line of answers and the model's name into a line of the benchmark's own answer file, which is
            then written, too.
    """

    help: str
    prompt: str
    metrics: Mapping[str, tuple[str, Reader]] = field(default_factory=dict)
    output: str = "text"
    questions: tuple[str, ...] = QUESTIONS
    references: tuple[str, ...] = _ANSWERS
    choices: tuple[str, ...] | None = None
    needs_choices: bool = False
    needs_references: bool = True
    rating: Rating | None = None
    keeps: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    max_new_tokens: int = 64
    expand: Callable[[Sequence[Any]], Sequence[Any]] | None = None
    released: Callable[[Mapping[str, Any], str], dict[str, Any]] | None = None

    def __post_init__(self):
        for name, _ in self.metrics.values():
            SCORES[name]  # raises if it is not registered
        if self.output not in ("text", "likelihood"):
            raise ValueError(f'A task\'s output is "text" or "likelihood", not {self.output!r}.')


TASKS: LazyRegistry[Task] = LazyRegistry("task")


def register_task(name: str, task: Task, *, exist_ok: bool = False) -> Task:
    """Makes a task known to `evaluate` and `anymodality evaluate --tasks`."""
    return TASKS.register(name, task, exist_ok=exist_ok)


SUITES: LazyRegistry[tuple[str, ...]] = LazyRegistry("suite")


def register_suite(name: str, tasks: Mapping[str, Task]) -> None:
    """Registers the benchmarks of a suite, each as the task `<name>_<benchmark>`, and the suite under its name."""
    for benchmark, task in tasks.items():
        register_task(f"{name}_{benchmark}", task)
    SUITES.register(name, tuple(tasks))


def suite_files(name: str, folder: str | Path) -> dict[str, str]:
    """Tasks of a suite -> their files in a folder, `<benchmark>.jsonl` (or .json, .parquet), for files that exist.

    Raises:
        ValueError: the folder has none of them.
    """
    files = {}
    for benchmark in SUITES[name]:
        paths = [Path(folder, f"{benchmark}.{ending}") for ending in ("parquet", "json", "jsonl")]
        files |= {f"{name}_{benchmark}": str(path) for path in paths if path.exists()}
    if not files:
        raise ValueError(f"{folder} has no file of the suite {name}: {', '.join(f'{b}.jsonl' for b in SUITES[name])}.")
    return files


def score(task: Task, lines: Lines) -> dict[str, float]:
    """Metric -> value over all answers of a task (each a dict as in the files of samples)."""
    lines = [line for line in lines if "rating" in line] if task.rating else lines
    found: dict[str, float] = {}
    for metric, (name, rows) in rows_of(task, lines).items():
        values = SCORES[name].total(rows)
        found |= {f"{metric}{key.removeprefix(name)}": value for key, value in values.items()}
    return found


def score_groups(task: Task, lines: Lines) -> dict[str, dict[str, dict[str, float]]]:
    """Column -> its values -> metrics of the answers with that value; several values are a list, or separated by commas."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for column in task.groups:
        members: dict[str, list] = {}
        for line in lines:
            given = line["kept"].get(column, [])
            for value in given if isinstance(given, list) else str(given).split(","):
                members.setdefault(str(value).strip(), []).append(line)
        members.pop("", None)
        if members:
            found[column] = {
                value: {"samples": len(members[value]), **score(task, members[value])} for value in sorted(members)
            }
    return found


def rows_of(task: Task, lines: Lines) -> dict[str, tuple[str, np.ndarray]]:
    """Metric -> (its score's name, that score's numbers of each sample)."""
    if not lines:
        return {}
    references = [line["references"] for line in lines]
    return {
        metric: (name, SCORES[name].checked_rows(read(lines), references))
        for metric, (name, read) in task.metrics.items()
    }


# --- how answers are read ----------------------------------------------------------------------------------------------


def said(lines: Lines) -> list[str]:
    """The generated text; or the choice of the highest likelihood, including the token that ends an answer."""
    return [line["answer"] for line in lines]


def first_line(lines: Lines) -> list[str]:
    """The first line of the generated text: small models continue with new questions."""
    return [(line["answer"].strip().splitlines() or [""])[0] for line in lines]


def likeliest_per_token(lines: Lines) -> list[str]:
    """The choice of the highest likelihood per token, for choices that differ in length."""
    return [line["choices"][int(np.argmax(np.divide(line["log_likelihoods"], line["tokens"])))] for line in lines]


def probability_of_first(lines: Lines) -> list[float]:
    """The first choice's probability among all choices."""
    values = [np.asarray(line["log_likelihoods"]) for line in lines]
    return [float(1 / np.exp(value - value[0]).sum()) for value in values]


def rated(lines: Lines) -> list[Any]:
    """The ratings by people or a judge."""
    return [line["rating"] for line in lines]


_LETTER = re.compile(
    r"^\W*([A-Za-z])\b(?!')|\(([A-Za-z])\)|\b(?:answer|option|choice)\b(?:\s+is)?\W*([A-Za-z])\b", re.I
)


def lettered(lines: Lines) -> list[str]:
    """The choice whose letter was generated: at the start, in brackets, or after "answer", "option", "choice"; else the
    choice that was written out; "" if neither."""
    return [_lettered(line["answer"], line["choices"]) for line in lines]


def _lettered(answer: str, choices: Sequence[str]) -> str:
    normal = normalize_answer(answer)
    if written := [choice for choice in choices if normalize_answer(choice) == normal]:
        return written[0]
    if found := _LETTER.search(answer):
        place = string.ascii_uppercase.index(next(filter(None, found.groups())).upper())
        return choices[place] if place < len(choices) else ""
    return ""


def named(lines: Lines) -> list[str]:
    """The label in the answer: the answer itself, or the only label whose words are in it; "" if none or several are. A
    label that is part of another counts only where the longer one does not occur."""
    known = sorted({label for line in lines for label in [*line["references"], *(line.get("choices") or ())]})
    return [_named(line["answer"], line.get("choices") or known) for line in lines]


def _named(answer: str, labels: Sequence[str]) -> str:
    rest, found = f" {normalize_answer(answer)} ", []
    for label in sorted(labels, key=lambda label: -len(normalize_answer(label))):
        words = f" {normalize_answer(label)} "
        if words.strip() and words in rest:
            found.append(label)
            rest = rest.replace(words, "  ")
    return found[0] if len(found) == 1 else ""


# --- kinds ---------------------------------------------------------------------------------------------------------------

_ASR = Task(
    help="transcripts of speech: WER, CER",
    prompt="Write down what is said.",
    metrics={"wer": ("wer", said), "cer": ("cer", said)},
    references=("references", "transcription", "transcript", "sentence", "text", "normalized_text"),
    max_new_tokens=200,
)
_KINDS = {
    "captioning": Task(
        help="captions of any media: CIDEr-D, BLEU, ROUGE-L",
        prompt="Describe this in one short sentence.",
        metrics={name: (name, first_line) for name in ("cider", "bleu", "rouge_l")},
        references=("references", "captions", "caption", "text", "txt"),
    ),
    "vqa": Task(
        help="short answers to questions, by several people: the official VQA accuracy",
        prompt="{question}\nAnswer with a single word or phrase.",
        metrics={"vqa_accuracy": ("vqa_accuracy", first_line)},
        keeps=("question_type", "answer_type"),
        groups=("question_type", "answer_type"),
        max_new_tokens=16,
    ),
    "multiple_choice": Task(
        help="the likeliest choice, in total and per token: accuracy",
        prompt="{question}",
        metrics={"accuracy": ("accuracy", said), "accuracy_per_token": ("accuracy", likeliest_per_token)},
        output="likelihood",
        needs_choices=True,
    ),
    "multiple_choice_letter": Task(
        help="the letter of a choice, generated: accuracy",
        prompt="{question}\n{choices}\nAnswer with the letter of the right choice.",
        metrics={"accuracy": ("accuracy", lettered)},
        needs_choices=True,
        max_new_tokens=16,
    ),
    "classification": Task(
        help="the one label that an answer names: accuracy",
        prompt="{question}",
        metrics={"accuracy": ("accuracy", named)},
        references=("label", *_ANSWERS),
        max_new_tokens=16,
    ),
    "asr": _ASR,
    "multimodal_asr": replace(
        _ASR,
        help="transcripts of speech about a given picture or video: WER, CER",
        prompt="Look at what is shown, and write down what is said about it.",
    ),
    "yes_no": Task(
        help="P(Yes) against P(No) by likelihood: area under the ROC curve, accuracy",
        prompt="{question}",
        metrics={"auc": ("auc", probability_of_first), "accuracy": ("accuracy", said)},
        output="likelihood",
        choices=("Yes", "No"),
    ),
    "open": Task(
        help="answers without a score, to read or to rate",
        prompt="{question}",
        needs_references=False,
        max_new_tokens=256,
    ),
}
for _name, _task in _KINDS.items():
    register_task(_name, _task)
