"""Evaluation: tasks, scores, answers kept sample by sample, and what two runs differ by."""

from . import suites  # noqa: F401
from .comparing import compare
from .jobs import Job
from .ratings import Judge
from .running import answer, evaluate, finish, read_answers, read_results
from .samples import Sample, read_sample
from .scores import SCORES, Score, register_score
from .tasks import TASKS, Task, register_task


__all__ = [
    "SCORES",
    "TASKS",
    "Job",
    "Judge",
    "Sample",
    "Score",
    "Task",
    "answer",
    "compare",
    "evaluate",
    "finish",
    "read_answers",
    "read_results",
    "read_sample",
    "register_score",
    "register_task",
]
