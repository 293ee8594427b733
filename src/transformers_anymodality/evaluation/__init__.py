"""Evaluation: tasks, scores, answers kept sample by sample, and what two runs differ by."""

from pathlib import Path

from . import captions  # noqa: F401 (registers its scores)
from .answering import answer, evaluate
from .comparing import compare
from .jobs import Job, Sample
from .results import Judge, finish, read_answers, read_results
from .scores import SCORES, Score, register_score
from .tasks import SUITES, TASKS, Rating, Task, register_suite, register_task


# What `evaluate.load(METRIC, name)` takes for a score.
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
