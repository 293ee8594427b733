"""`anymodality serve`: many clients at once, as `benchmarks/load.py` has them, and two minutes of faults."""

import base64
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import load
from PIL import Image

from .attack import Attack, Outcome


LIMITS = "--max megabytes=1 --max new_tokens=2000 --max requests=32 --api-key key".split()
# A request whose body does not come.
HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n" + "".join(
    f"{name}: {value}\r\n" for name, value in load.HEADERS.items()
)
HALF = (HEAD + "Content-Length: 999\r\n\r\n{").encode()
BOMB = load.encoded(Image.new("1", (9000, 9000)))
TOLD = {0, 200, 400, 413, 503}  # 0: a connection that ended


class Served(Attack):
    """A server of a small model, which ends with the attack."""

    def prepare(self, folder: Path) -> None:
        load.save_model(folder / "model")
        self.stack = ExitStack()
        self.port, self.process = self.stack.enter_context(load.served(folder / "model", *LIMITS))

    def end(self) -> None:
        self.stack.close()


class Load(Served):
    name = "Server: 1, 16, 64 and 256 clients at once, with cut streams, bad media and bodies that are too large"
    full = 4

    def prepare(self, folder: Path) -> None:
        super().prepare(folder)
        self.clients: Iterator[int] = iter((1, 16, 64, 256))

    def attempt(self, rng: random.Random) -> Outcome:
        clients = next(self.clients)
        result = load.load(self.port, clients)
        told = result["statuses"].keys() <= {"200", "400", "413", "503"}
        how = "each told, the next answered" if told and result["survived"] else "not answered"
        return Outcome(told and result["survived"], how, f"{clients} clients: {result}")


class Soak(Served):
    name = "Server: two minutes of requests of 16 clients, of which nothing may stay (threads, 20 MB, files)"
    full = 1

    def attempt(self, rng: random.Random) -> Outcome:
        requests, wrong = soak(self.port, self.process, seconds=120, clients=16, most=50_000)
        return Outcome(not wrong, "something stayed" if wrong else f"nothing stayed of {requests:,} requests", wrong)


def soak(port: int, process: int, seconds: float, clients: int, most: int) -> tuple[int, str]:
    """Requests with faults for some seconds, but `most` at most: their number, and what is wrong afterwards, or ""."""

    def client(number: int, seconds: float) -> list[int]:
        until, seen = time.monotonic() + seconds, []
        while time.monotonic() < until and len(seen) < most // clients:
            seen.append(faults(port, number * 100_003 + len(seen)))
        return seen

    def run(seconds: float) -> list[int]:
        with ThreadPoolExecutor(clients) as pool:
            return [status for seen in pool.map(client, range(clients), [seconds] * clients) for status in seen]

    run(seconds / 4)  # of what grows once
    answered, before = text(port), held(process)
    statuses = run(seconds)
    answered = {answered, text(port)}
    time.sleep(1)  # connections close
    grown = {name: size - before[name] for name, size in held(process).items()}
    if answered != {200} or not {200, 400, 413} <= {*statuses} <= TOLD:
        return len(statuses), f"statuses {sorted({*statuses})}, and then {sorted(answered)}"
    # A connection may be kept for another request.
    stays = grown["threads"] > 0 or grown["megabytes"] >= 20 or grown["files"] > 8
    return len(statuses), str(grown) if stays else ""


def faults(port: int, seed: int) -> int:
    """A request, with or without a fault; its status, 0 if the connection ended."""
    rng = random.Random(seed)
    kind = rng.randrange(9)
    if kind < 5:
        return load.mixed(port, kind)
    match kind:
        case 5:
            return picture(port, seed, rng.randbytes(999))
        case 6:
            return picture(port, seed, BOMB)
        case 7:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(HALF)
            return 0
    return load.post(port, rng.randbytes(200))[0]


def picture(port: int, seed: int, data: bytes) -> int:
    return load.post(port, {"messages": load.chat(seed, base64.b64encode(data).decode())})[0]


def text(port: int, **options: Any) -> int:
    return load.post(port, {"messages": load.chat(0), "max_tokens": 2, **options})[0]


def held(process: int) -> dict[str, float]:
    """Memory, threads and files of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    megabytes = int(status["VmRSS"].split()[0]) / 1024
    return {"threads": int(status["Threads"]), "megabytes": megabytes, "files": len(os.listdir(f"/proc/{process}/fd"))}


ATTACKS: list[Callable[[], Attack]] = [Load, Soak]
