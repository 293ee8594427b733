"""The feature store: a stage-1 step that reads it, against one with features in memory; its build, against the tower alone
over the same files; and random reads of small items.

    python -m benchmarks.features [--quick]
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_utils import load_image

from transformers_anymodality import AnyModalityDataCollator, set_trainable
from transformers_anymodality.features import FeatureStore, build_features

from . import _models as models
from ._ratio import DEVICE, DTYPE, Effort, Result, compare, main, seconds


BATCH = 8


def measure(effort: Effort) -> Iterator[Result]:
    sizes = models.sized(models.Sizes(384, 6, 4000, 384, 8, side=224, patch=16), effort)
    image = models.image(sizes)
    image |= {"aligner": {"type": "perceiver_resampler", "depth": 2, "num_heads": 4}, "num_tokens": 32}
    model, processor = models.composite(sizes, image=image)
    set_trainable(model, "aligners", verbose=False)
    with tempfile.TemporaryDirectory() as name:
        rows = _samples(Path(name), (2 if effort.tiny else 4) * BATCH)
        yield from building(model, processor, rows, Path(name), effort)
        yield from steps(model, processor, rows, Path(name) / "store", effort)
        yield from reads(rows, Path(name) / "small", effort)


def building(model: Any, processor: Any, rows: list[dict], folder: Path, effort: Effort) -> Iterator[Result]:
    files = [row["messages"][0]["content"][0]["path"] for row in rows]
    extractor, made = processor.sub_processor("image"), iter(range(1 << 30))

    def build() -> None:
        build_features(model, processor, rows, folder / f"store{next(made)}", batch_size=BATCH, verbose=False)

    @torch.no_grad()
    def tower() -> None:
        for start in range(0, len(files), BATCH):
            pixels = extractor([load_image(file) for file in files[start : start + BATCH]], return_tensors="pt")
            model.image_tower(pixels["pixel_values"].to(DEVICE, DTYPE))

    found = compare(build, tower, effort)
    build_features(model, processor, rows, folder / "store", batch_size=BATCH, verbose=False)
    yield Result(10, f"features build, {len(files)} files", "tower alone over the same files", found, 1.15)


def steps(model: Any, processor: Any, rows: list[dict], store: Path, effort: Effort) -> Iterator[Result]:
    stored = AnyModalityDataCollator(processor, features=FeatureStore(store, model))
    ready = stored(rows[:BATCH])
    own, none = _step(model, lambda: stored(rows[:BATCH])), _step(model, lambda: ready)
    if abs(own() - none()) > 1e-4:
        raise ValueError("Both sides must have the same loss before their speeds are compared.")
    yield Result(10, "training step with the store", "batch in memory, no tower", compare(own, none, effort), 1.05)


def reads(rows: list[dict], store: Path, effort: Effort) -> Iterator[Result]:
    """Reads of one vector per image, in random batches, with the collator's own call."""
    sizes = models.TINY if effort.tiny else models.Sizes(tower_width=384, tower_layers=1)
    pooled = {"tower": models.vision(sizes), "processor": models.image_processor(sizes), "select_feature": "pooled"}
    model, processor = models.composite(sizes, image=pooled | {"aligner": "linear", "num_tokens": 1})
    build_features(model, processor, rows, store, batch_size=BATCH, verbose=False)
    opened = FeatureStore(store, model)
    files = [Path(row["messages"][0]["content"][0]["path"]) for row in rows]
    order = np.random.default_rng(0).integers(0, len(files), (2 if effort.tiny else 100, BATCH)).tolist()

    def read() -> None:
        for places in order:
            opened.inputs(processor, {"image": [files[place] for place in places]})

    read()
    rates = [len(order) * BATCH / seconds(read) for _ in range(effort.least)]
    yield Result(10, "random reads of small items", "a second", rates, 20_000, at_least=True, unit=" per s")


def _samples(folder: Path, count: int) -> list[dict[str, Any]]:
    """Questions about photographs of 640 x 480 (JPEG), with answers of 20 to 60 words."""
    rng, rows = np.random.default_rng(0), []
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (15, 20, 3), dtype=np.uint8)).resize((640, 480), 3).save(
            folder / f"{i}.jpg"
        )
        said = [" ".join(f"word{w}" for w in rng.integers(10, 900, n)) for n in (12, rng.integers(20, 60))]
        content = [{"type": "image", "path": str(folder / f"{i}.jpg")}, {"type": "text", "text": f" {said[0]}"}]
        rows.append({"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": said[1]}]})
    return rows


def _step(model: Any, collate: Callable[[], dict[str, torch.Tensor]]) -> Callable[[], float]:
    def step() -> float:
        model.train()
        model.zero_grad()
        loss = model(**{name: value.to(DEVICE) for name, value in collate().items()}).loss
        loss.backward()
        return loss.item()

    return step


if __name__ == "__main__":
    main(__doc__ or "", measure)
