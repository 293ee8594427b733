"""Evaluation: tasks, scores, answers kept sample by sample, and what two runs differ by."""

from .comparing import compare
from .jobs import Job
from .ratings import Judge
from .running import answer, evaluate, finish, read_answers, read_results
from .samples import Sample, read_sample
from .scores import METRIC, SCORES, Score, register_score
from .tasks import SUITES, TASKS, Rating, Task, register_suite, register_task


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
    "read_sample",
    "register_score",
    "register_suite",
    "register_task",
]
