"""Feature stores: builds that are killed, two builders at once, flipped bits, and a disk that is full."""

import os
import random
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from modeling_tests import tiny

from transformers_anymodality.features import FeatureStore, build_features

from .attack import Attack, Outcome, in_child, killed, start


Content = dict[str, torch.Tensor]


class Stores(Attack):
    """A store of 20 images and signals in many small files, and its right content."""

    def prepare(self, folder: Path) -> None:
        self.folder = folder
        self.model, self.processor = tiny.composite(settings=tiny.modalities("image", "imu"))
        self.rows = [{"messages": tiny.chat("image", "imu", "what ?", seed=i, answer="yes")} for i in range(20)]
        started = time.perf_counter()  # of a child, as those that are killed
        if error := in_child(lambda: self.build(folder / "right"), folder / "log"):
            raise RuntimeError(error)
        self.seconds = time.perf_counter() - started
        self.right = self.content(folder / "right")

    def build(self, store: Path) -> None:
        build_features(self.model, self.processor, self.rows, store, batch_size=1, shard_bytes=3000, verbose=False)

    def content(self, store: Path) -> Content:
        opened = FeatureStore(store, self.model)
        return {
            f"{name} {digest}": opened.get(name, digest) for name, index in opened.indexes.items() for digest in index
        }

    def is_right(self, store: Path) -> bool:
        found = self.content(store)
        return found.keys() == self.right.keys() and all(torch.equal(found[key], self.right[key]) for key in found)

    def fresh(self) -> Path:
        store = self.folder / "tried"
        shutil.rmtree(store, ignore_errors=True)
        return store


class KilledBuilds(Stores):
    name = "Feature store: builds killed (SIGKILL) at random moments, then built again"
    full = 20

    def attempt(self, rng: random.Random) -> Outcome:
        store = self.fresh()
        for _ in range(rng.choice((1, 2, 3))):
            killed(lambda: self.build(store), rng.uniform(0, self.seconds))
        self.build(store)
        left = [path.name for path in store.rglob("*.tmp")]
        return Outcome(self.is_right(store) and not left, "equal" if not left else "equal, with files left", str(left))


class TwoBuilders(Stores):
    name = "Feature store: two builders of one rank at once"
    full = 10

    def attempt(self, rng: random.Random) -> Outcome:
        store, log = self.fresh(), self.folder / "log"
        first = start(lambda: self.build(store))
        time.sleep(rng.uniform(0, self.seconds / 3))
        second = in_child(lambda: self.build(store), log)
        _, status = os.waitpid(first, 0)
        refused = "Another process builds" in second
        return Outcome(
            self.is_right(store) and status == 0 and (refused or not second), "refused" if refused else "shared"
        )


class FlippedStores(Stores):
    name = "Feature store: a bit flipped in any of its files"
    full = 300

    def prepare(self, folder: Path) -> None:
        super().prepare(folder)
        shutil.copytree(folder / "right", folder / "tried")
        files = [path for path in (folder / "tried").rglob("*") if path.is_file() and path.suffix != ".lock"]
        self.kinds = [
            [path for path in files if path.suffix == suffix] for suffix in (".safetensors", ".json", ".arrow")
        ]

    def attempt(self, rng: random.Random) -> Outcome:
        file = rng.choice(rng.choice(self.kinds))
        whole = file.read_bytes()
        place, bit = rng.randrange(len(whole)), rng.randrange(8)
        file.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :])
        try:
            return Outcome(self.is_right(self.folder / "tried"), "equal, mended by itself")
        except ValueError as error:
            return Outcome(file.name in str(error), "named", f"{file}, byte {place}, bit {bit}: {error}")
        finally:
            file.write_bytes(whole)


class FullDisk(Stores):
    name = "Feature store: no room for a file (RLIMIT_FSIZE), then built again"
    full = 20

    def attempt(self, rng: random.Random) -> Outcome:
        store, usual = self.fresh(), resource.getrlimit(resource.RLIMIT_FSIZE)
        error = ""
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (rng.randrange(100, 3000), usual[1]))
            self.build(store)
        except OSError as refused:
            error = str(refused)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        self.build(store)
        return Outcome(self.is_right(store) and str(store) in error, "named, then equal", error)


ATTACKS: list[Callable[[], Attack]] = [KilledBuilds, TwoBuilders, FlippedStores, FullDisk]
