"""Requests with media are read by processes of their own: each may take so much time and memory, and is then given up.

A decoder cannot be stopped in a thread, and one file of a kilobyte can ask for an hour. So one process is forked when the
server starts, before it has threads. It forks readers, which costs milliseconds. A reader takes one request after another,
until it has grown, or has to be given up: then it ends, and nothing of what its requests took stays.
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
except ImportError:  # a system that cannot fork, either
    resource: Any = None

AT_ONCE = max(2, min(8, (os.cpu_count() or 2) // 2))  # requests that are read at a time
_READ, _REFUSED = b"r", b"n"  # what an answer begins with; a capital from a process that ends
_SIZE = 8  # bytes of a number
_GROWN = 64 * 1024**2  # bytes more than at first, with which a process is not used again


class Unread(ValueError):
    """A request cannot be read, or not within its budget."""


class Reader:
    """Calls a function in processes of their own.

    Args:
        function: gives tensors by name; all that it raises means that the request is at fault.
        seconds, spare_bytes: what each call may take.

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
        """What the function gives for these arguments, which JSON can hold.

        Raises:
            Unread: it raised something, or took more than it may.
        """
        async with self.slots:
            child = self.idle.pop() if self.idle else await self._fork()
            answer, whole = b"", False
            try:
                answer, whole = await child.ask(json.dumps(request).encode()), True
            except (OSError, EOFError):  # its time or memory was at its end
                pass
            finally:
                if whole and answer[:1] in (_READ, _REFUSED):
                    self.idle.append(child)
                else:  # nobody waits for it any more, or it has grown
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
    """The process that was forked first: forks for each connection that it is handed, until nobody is at the other end."""
    theirs.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the server ends this process when it has finished
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system clears up behind children
    torch.set_num_threads(1)  # a pool of threads does not outlive a fork
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    imported, imports = os.pipe()
    os.set_blocking(imported, False)
    while True:
        _, handles, *_ = socket.recv_fds(control, 1, 1)
        if not handles:
            return
        _import(imported)
        gc.freeze()  # a collection would write to all pages that are shared
        if os.fork():
            os.close(handles[0])
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        known = {*sys.modules}
        try:
            _answer(function, socket.socket(fileno=handles[0]), seconds, spare)
            names = sys.modules.keys() - known
            os.write(imports, "".join(f"{name}\n" for name in names).encode())
        finally:
            os._exit(0)  # nothing that belongs to the server is closed here


def _import(imported: int) -> None:
    """Imports decoders that requests have imported, so that the next one need not."""
    with suppress(BlockingIOError):
        for name in os.read(imported, 2**16).decode().split():
            with suppress(Exception):
                importlib.import_module(name)


def _answer(function: Callable, connection: socket.socket, seconds: float, spare: int) -> None:
    """The process that reads: request after request, until it has grown."""
    small = _limit_memory(spare)
    with connection.makefile("rwb") as file:
        file.write(os.getpid().to_bytes(_SIZE, "big"))
        file.flush()
        while size := file.read(_SIZE):
            request = json.loads(file.read(int.from_bytes(size, "big")))
            signal.setitimer(signal.ITIMER_REAL, seconds)  # ends the process: nothing handles it
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
    """Bytes of memory that this process once held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _limit_memory(spare: int) -> int:
    """So many bytes beyond what the process holds now; where the system does not tell, time alone is limited. Returns the
    peak until now."""
    with suppress(OSError, ValueError):
        held = 1024 * int(Path("/proc/self/status").read_text().partition("VmData:")[2].split()[0])
        resource.setrlimit(resource.RLIMIT_DATA, (held + spare, held + spare))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return _peak()
