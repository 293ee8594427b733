"""Every value in the JSON of a checkpoint and of a feature store, replaced by one of another kind, or left out.

A mutation is survived if the file is refused with an error of one of our kinds, if nothing changes, or if it is another
setting of the same kind as the one before (another number, another name that exists): that is what the file says now. Such
a number may ask for more memory than there is, and is told so; what takes more, or does not end, is a loss.
"""

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from modeling_tests import tiny
from transformers import AutoModelForCausalLM, AutoProcessor

from transformers_anymodality.features import FeatureStore, build_features

from .attack import Attack, HangsError, Outcome, bounded


VALUES = [None, -1, 0, "x", "../x", [], {}, 10**9, 2**40, True, 1.5, [1], "image", float("nan"), float("inf"), ...]
CHAT = tiny.chat("image", "audio", "imu", "depth", "thermal", "video", "what ?", answer="yes")
# Transformers reads these before it knows that the checkpoint is ours; or they say nothing about the model.
PASSED_OVER = {"model_type", "auto_map", "architectures", "transformers_version", "processor_class"}
SECONDS, MORE_BYTES = 20, 2**30  # of one attempt; it takes some hundredths, and megabytes


def leaves(node: Any, path: tuple = ()) -> Iterator[tuple]:
    if path and path[-1] in PASSED_OVER and len(path) == 1:
        return
    if path:
        yield path
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from leaves(value, (*path, key))


def mutated(content: Any, path: tuple, value: Any) -> tuple[Any, Any]:
    """A copy with another value (`...`: none) at a path, and what was there."""
    changed = copy.deepcopy(content)
    place = changed
    for key in path[:-1]:
        place = place[key]
    before = place[path[-1]]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return changed, before


def same_kind(before: Any, value: Any) -> bool:
    """Whether a value may replace another: both are numbers, or both are names, lists or tables; None counts as missing, 0
    and 1 as false and true. One number may stand for a list of numbers, as in `image_std`."""
    if before is None or value is None or value is ...:
        return True  # what may be left out has a default
    if isinstance(before, bool) or isinstance(value, bool):
        return isinstance(before, bool) and value in (0, 1)
    several = before if isinstance(before, list) else [before]
    numbers = isinstance(value, (int, float)) and all(isinstance(one, (int, float)) for one in several)
    return numbers or type(before) is type(value)


class JsonFiles(Attack):
    name = "JSON: a value replaced or left out"
    full = 5000

    def prepare(self, folder: Path) -> None:
        self.folder = folder
        self.model, processor = tiny.composite()
        self.model.save_pretrained(folder / "model", processor=processor)
        build_features(self.model, processor, [{"messages": CHAT}], folder / "store", verbose=False)
        self.inputs = tiny.inputs(processor, CHAT[:1])
        self.files = {
            "config.json": (folder / "model", self.use_model),
            "processor_config.json": (folder / "model", self.use_processor),
            "index.json": (folder / "store" / "image", self.use_store),
        }
        self.right = {name: use() for name, (_, use) in self.files.items()}

    def use_model(self) -> list[torch.Tensor]:
        with torch.no_grad():
            return [AutoModelForCausalLM.from_pretrained(self.folder / "model")(**self.inputs).logits]

    def use_processor(self) -> list[torch.Tensor]:
        inputs = tiny.inputs(AutoProcessor.from_pretrained(self.folder / "model"), CHAT[:1])
        return [inputs[name] for name in sorted(inputs)]

    def use_store(self) -> list[torch.Tensor]:
        store = FeatureStore(self.folder / "store", self.model)
        return [store.get("image", digest) for digest in store.indexes["image"]]

    def attempt(self, rng: random.Random) -> Outcome:
        name = rng.choice([*self.files, "config.json", "processor_config.json"])
        folder, use = self.files[name]
        file = folder / name
        whole = file.read_text()
        content = json.loads(whole)
        path, value = rng.choice([*leaves(content)]), rng.choice(VALUES)
        changed, before = mutated(content, path, value)
        what = (
            f"{name}: {'.'.join(map(str, path))} = {'left out' if value is ... else repr(value)} (was {before!r:.40})"
        )
        file.write_text(json.dumps(changed))
        try:
            return self.judge(what, use, self.right[name], same_kind(before, value))
        finally:
            file.write_text(whole)

    def judge(self, what: str, use: Any, right: list[torch.Tensor], allowed: bool) -> Outcome:
        try:
            with bounded(SECONDS, MORE_BYTES):
                found = use()
        except HangsError:
            return Outcome(False, "hangs", what)
        except MemoryError as error:
            return Outcome(allowed, "more than memory holds", f"{what}: {error}")
        except (ValueError, OSError, ImportError) as error:
            return Outcome(True, "refused", f"{what}: {type(error).__name__} {error}")
        except Exception as error:
            return Outcome(False, f"untyped {type(error).__name__}", f"{what}: {error}")
        if len(found) == len(right) and all(map(torch.equal, found, right)):
            return Outcome(True, "no effect", what)
        finite = all(bool(one.isfinite().all()) for one in found if one.is_floating_point())
        return Outcome(allowed and finite, "another setting" if finite else "NaN", what)


ATTACKS: list[Callable[[], Attack]] = [JsonFiles]
