"""`anymodality serve`: many clients at once, as `benchmarks/load.py` has them, and two minutes of faults."""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks import load

from .attack import Attack, Outcome


class Served(Attack):
    """A server of a small model, which ends with the attack."""

    def prepare(self, folder: Path) -> None:
        load.save_model(folder / "model")
        self.stack = ExitStack()
        limits = "--max megabytes=1 --max new_tokens=2000 --max requests=32".split()
        self.port, self.process = self.stack.enter_context(load.served(folder / "model", *limits, "--api-key", "key"))

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
        from modeling_tests.test_server_load import soak

        try:
            soak(self.port, self.process, seconds=120, clients=16, most=50_000)
        except AssertionError as error:
            return Outcome(False, "something stayed", str(error))
        return Outcome(True, "nothing stayed")


ATTACKS: list[Callable[[], Attack]] = [Load, Soak]
