"""Separate processes read requests with media: a request that takes too much time or memory is given up.

A decoder cannot be stopped in a thread, and a file of a kilobyte can take an hour. So one process is forked when the server
starts, before it has threads. It forks readers, which takes milliseconds. A reader handles one request after another. It
ends when it has grown or is given up, which frees everything that its requests used.
"""

import asyncio
import gc
import importlib
import json
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save


try:
    import resource
except ImportError:  # a system that cannot fork either
    resource: Any = None

AT_ONCE = max(2, min(8, (os.cpu_count() or 2) // 2))  # requests that are read at the same time
_READ, _REFUSED = b"r", b"n"  # first byte of an answer; upper case if the process ends
_SIZE = 8  # bytes of a number
_GROWN = 64 * 1024**2  # a process that has grown by so many bytes is not used again


class Unread(ValueError):
    """A request cannot be read, or not within its limits."""


class Reader:
    """Calls a function in separate processes.

    Args:
        function: returns tensors by name; any error that it raises means that the request is at fault.
        seconds, spare_bytes: limits of each call.

    Raises:
        OSError: this system cannot fork.
    """

    def __init__(self, function: Callable[..., dict[str, torch.Tensor]], seconds: float, spare_bytes: int):
        if resource is None:
            raise OSError("The server needs a system that can fork processes: run it on Linux or macOS.")
        self.seconds, self.slots, self.idle = seconds, asyncio.Semaphore(AT_ONCE), list[_Child]()
        self.control, theirs = socket.socketpair()
        arguments = (function, self.control, theirs, seconds, spare_bytes)
        self.process = multiprocessing.get_context("fork").Process(target=_fork_each, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    async def read(self, *request: Any) -> dict[str, torch.Tensor]:
        """The function's result for these arguments, which must be JSON values.

        Raises:
            Unread: it raised an error, or exceeded its limits.
            OSError, EOFError: no process could be started.
        """
        async with self.slots:
            child = self.idle.pop() if self.idle else await self._fork()
            answer, whole = b"", False
            try:
                answer, whole = await child.ask(json.dumps(request).encode()), True
            except (OSError, EOFError):  # it ran out of time or memory
                pass
            finally:
                if whole and answer[:1] in (_READ, _REFUSED):
                    self.idle.append(child)
                else:  # the client has left, or the process has grown
                    child.end()
        if not answer:
            raise Unread(f"Reading the request took more than {self.seconds:g} s, or too much memory: send less.")
        if answer[:1].lower() == _REFUSED:
            raise Unread(answer[1:].decode())
        return load(answer[1:])

    async def _fork(self) -> "_Child":
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.control, [b"f"], [theirs.fileno()])
        answers, questions = await asyncio.open_connection(sock=ours)
        return _Child(answers, questions, int.from_bytes(await answers.readexactly(_SIZE), "big"))

    def close(self) -> None:
        for child in self.idle:
            child.end()
        self.process.terminate()
        self.process.join()
        self.control.close()


@dataclass
class _Child:
    answers: asyncio.StreamReader
    questions: asyncio.StreamWriter
    number: int  # of the process

    async def ask(self, request: bytes) -> bytes:
        self.questions.write(_with_size(request))
        await self.questions.drain()
        return await self.answers.readexactly(int.from_bytes(await self.answers.readexactly(_SIZE), "big"))

    def end(self) -> None:
        self.questions.close()
        with suppress(ProcessLookupError):
            os.kill(self.number, signal.SIGKILL)


def _with_size(data: bytes) -> bytes:
    return len(data).to_bytes(_SIZE, "big") + data


def _fork_each(function: Callable, theirs: socket.socket, control: socket.socket, seconds: float, spare: int) -> None:
    """The process that was forked first: it forks for each connection that it gets, until the other end is closed."""
    theirs.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal: the server ends this process when it has finished
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system cleans up children
    torch.set_num_threads(1)  # a thread pool does not survive a fork
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    imported, imports = os.pipe()
    os.set_blocking(imported, False)
    while True:
        _, handles, *_ = socket.recv_fds(control, 1, 1)
        if not handles:
            return
        _import(imported)
        gc.freeze()  # a collection would write to all shared pages
        try:
            is_parent = os.fork() != 0
        except OSError:  # no memory, or too many processes; the server sees the connection end
            is_parent = True
        if is_parent:
            os.close(handles[0])
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        known = {*sys.modules}
        try:
            _answer(function, socket.socket(fileno=handles[0]), seconds, spare)
            names = sys.modules.keys() - known
            os.write(imports, "".join(f"{name}\n" for name in names).encode())
        finally:
            os._exit(0)  # closes nothing that belongs to the server


def _import(imported: int) -> None:
    """Imports decoders that requests have imported, so that the next request need not."""
    with suppress(BlockingIOError):
        for name in os.read(imported, 2**16).decode().split():
            with suppress(Exception):
                importlib.import_module(name)


def _answer(function: Callable, connection: socket.socket, seconds: float, spare: int) -> None:
    """The reading process: request after request, until it has grown."""
    small = _limit_memory(spare)
    with connection.makefile("rwb") as file:
        file.write(os.getpid().to_bytes(_SIZE, "big"))
        file.flush()
        while size := file.read(_SIZE):
            request = json.loads(file.read(int.from_bytes(size, "big")))
            signal.setitimer(signal.ITIMER_REAL, seconds)  # the signal is not handled, so it ends the process
            try:
                answer = _READ + save({name: value.contiguous() for name, value in function(*request).items()})
            except MemoryError:
                return
            except Exception as error:
                answer = _REFUSED + (str(error) or type(error).__name__).encode(errors="replace")
            signal.setitimer(signal.ITIMER_REAL, 0)
            grown = _peak() > small + _GROWN
            file.write(_with_size(answer[:1].upper() + answer[1:] if grown else answer))
            file.flush()
            if grown:
                return


def _peak() -> int:
    """Peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _limit_memory(spare: int) -> int:
    """Limits memory to `spare` bytes above the current use; if the system does not give this, only time is limited. Returns
    the peak until now."""
    with suppress(OSError, ValueError):
        held = 1024 * int(Path("/proc/self/status").read_text().partition("VmData:")[2].split()[0])
        resource.setrlimit(resource.RLIMIT_DATA, (held + spare, held + spare))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return _peak()
