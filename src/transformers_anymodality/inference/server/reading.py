"""Requests with media are read by processes of their own: each may take so much time and memory, and is then given up.

A decoder cannot be stopped in a thread, and one file of a kilobyte can ask for an hour. So one process is forked when the
server starts, before it has threads, and forks itself for each request: that costs milliseconds, and nothing of what a
request took stays.
"""

import asyncio
import json
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save


AT_ONCE = max(2, min(8, (os.cpu_count() or 2) // 2))  # requests that are read at a time
_READ, _REFUSED = b"+", b"-"  # what an answer begins with


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
        if not hasattr(os, "fork"):
            raise OSError(
                "The server reads media in forked processes, which this system lacks: run it on Linux or macOS."
            )
        self.seconds, self.slots = seconds, asyncio.Semaphore(AT_ONCE)
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
            ours, theirs = socket.socketpair()
            with theirs:
                socket.send_fds(self.control, [b"r"], [theirs.fileno()])
            answers, questions = await asyncio.open_connection(sock=ours)
            child = 0
            try:
                child = int.from_bytes(await answers.readexactly(4), "big")
                questions.write(json.dumps(request).encode())
                questions.write_eof()
                answer = await answers.read()
                child = 0
            except (OSError, EOFError):  # it died before it had read all, or said anything
                answer, child = b"", 0
            finally:
                questions.close()
                if child:  # nobody waits for it any more
                    with suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
        if not answer:
            raise Unread(
                f"Reading the request took more than {self.seconds:g} s, or more memory than one may: send less."
            )
        if answer[:1] == _REFUSED:
            raise Unread(answer[1:].decode())
        return load(answer[1:])

    def close(self) -> None:
        self.process.terminate()
        self.control.close()


def _fork_each(function: Callable, theirs: socket.socket, control: socket.socket, seconds: float, spare: int) -> None:
    """The process that was forked first: forks for each connection that it is handed, until nobody is at the other end."""
    theirs.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the server ends this process when it has finished
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system clears up behind children
    torch.set_num_threads(1)  # a pool of threads does not outlive a fork
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    while True:
        _, handles, *_ = socket.recv_fds(control, 1, 1)
        if not handles:
            return
        if os.fork():
            os.close(handles[0])
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            _answer(function, socket.socket(fileno=handles[0]), seconds, spare)
        finally:
            os._exit(0)  # nothing that belongs to the server is closed here


def _answer(function: Callable, connection: socket.socket, seconds: float, spare: int) -> None:
    signal.setitimer(signal.ITIMER_REAL, seconds)  # ends the process: nothing handles it
    connection.sendall(os.getpid().to_bytes(4, "big"))
    with connection.makefile("rb") as file:
        request = json.loads(file.read())
    _limit_memory(spare)
    try:
        answer = _READ + save({name: value.contiguous() for name, value in function(*request).items()})
    except MemoryError:
        return
    except Exception as error:
        answer = _REFUSED + (str(error) or type(error).__name__).encode(errors="replace")
    connection.sendall(answer)


def _limit_memory(spare: int) -> None:
    """So many bytes beyond what the process holds now; where the system does not tell, time alone is limited."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        status = Path("/proc/self/status").read_text()
        held = 1024 * int(status.partition("VmData:")[2].split()[0])
        resource.setrlimit(resource.RLIMIT_DATA, (held + spare, held + spare))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
