"""Evaluation: tasks, scores, answers stored sample by sample, and comparison of two runs."""

from pathlib import Path

from . import captions  # noqa: F401 (registers its scores)
from .answering import answer, evaluate
from .comparing import compare
from .jobs import Job, Sample
from .results import Judge, finish, read_answers, read_results
from .scores import SCORES, Score, register_score
from .tasks import SUITES, TASKS, Rating, Task, register_suite, register_task


# The path for `evaluate.load(METRIC, name)`.
METRIC = str(Path(__file__).with_name("metric.py"))

__all__ = [
    "METRIC",
    "SCORES",
    "SUITES",
    "TASKS",
    "Job",
    "Judge",
    "Rating",
    "Sample",
    "Score",
    "Task",
    "answer",
    "compare",
    "evaluate",
    "finish",
    "read_answers",
    "read_results",
    "register_score",
    "register_suite",
    "register_task",
]
