"""What an attack is: something that is tried many times, and survived or not."""

import gc
import os
import random
import resource
import select
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


class HangsError(BaseException):
    """Not an Exception, which what is attacked may handle."""


@contextmanager
def bounded(seconds: float, more_bytes: int) -> Iterator[None]:
    """What takes more processor time raises HangsError; what takes more memory than is held now, and so many bytes, raises
    MemoryError."""

    def stop(*_: Any) -> None:
        raise HangsError

    held = 1024 * int(Path("/proc/self/status").read_text().partition("VmData:")[2].split()[0])
    usual, handler = resource.getrlimit(resource.RLIMIT_DATA), signal.signal(signal.SIGPROF, stop)
    resource.setrlimit(resource.RLIMIT_DATA, (held + more_bytes, usual[1]))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        resource.setrlimit(resource.RLIMIT_DATA, usual)


def start(work: Callable[[], Any], log: Path | None = None) -> int:
    """Runs in a child process, which is this one's copy and so begins at once; its id. Its error is written to `log`."""
    gc.freeze()  # otherwise the child's first collection touches and copies every page of this process
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


def killed(work: Callable[[], Any], seconds: float) -> None:
    """Runs in a child process that is killed after some seconds, at any point."""
    process = start(work)
    ended = os.pidfd_open(process)
    select.select([ended], [], [], seconds)
    os.close(ended)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
