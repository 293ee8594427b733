"""What an attack is: something that is tried many times, and survived or not."""

import os
import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outcome:
    survived: bool
    how: str
    what: str = ""


class Attack:
    """Base class; `attempt` tries once.

    Attributes:
        name: as the table shows it.
        full: attempts of a full run.
    """

    name = ""
    full = 100

    def prepare(self, folder: Path) -> None:
        """Makes what is attacked, in an empty folder."""

    def attempt(self, rng: random.Random) -> Outcome:
        raise NotImplementedError

    def end(self) -> None:
        """Stops what `prepare` started; the folder goes by itself."""


def start(work: Callable[[], Any], log: Path | None = None) -> int:
    """Runs in a child process, which is this one's copy and so begins at once; its id. Its error is written to `log`."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        work()
        status = 0
    except BaseException:
        if log is not None:
            log.write_text(traceback.format_exc())
    finally:
        os._exit(status)


def in_child(work: Callable[[], Any], log: Path) -> str:
    """The error of a child process, or ""."""
    log.unlink(missing_ok=True)
    _, status = os.waitpid(start(work, log), 0)
    if log.is_file():
        return log.read_text()
    return "" if status == 0 else f"ended by signal {os.WTERMSIG(status)}"
