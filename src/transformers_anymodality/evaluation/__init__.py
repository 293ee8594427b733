"""Evaluation: tasks, scores, answers kept sample by sample, and what two runs differ by."""

from .answering import answer, evaluate
from .comparing import compare
from .jobs import Job, Sample
from .ratings import Judge
from .results import finish, read_answers, read_results
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
    "register_score",
    "register_suite",
    "register_task",
]
