"""Training steps of a composite, against its language model alone and Transformers' LLaVA class with the same weights; and
packed rows against padded ones.

python -m benchmarks.training [--quick]
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from transformers_anymodality import AnyModalityDataCollator, set_trainable
from transformers_anymodality.training.packing import AnyModalityPackingCollator, plan_rows

from . import _models as models
from ._ratio import DEVICE, Effort, Result, compare, main, seconds, throughput


def measure(effort: Effort) -> Iterator[Result]:
    yield from text_only(effort)
    yield from with_images(effort)
    yield from packed(effort)


def text_only(effort: Effort) -> Iterator[Result]:
    """A batch without media, for a composite that takes images and videos, in one process."""
    sizes = models.sized(models.Sizes(192, 4, 2000, 192, 4, side=112, patch=14), effort)
    rows = {"image": models.image(sizes), "video": {**models.image(sizes), "num_frames": 8}}
    model, _ = models.composite(sizes, **rows)
    batch = models.batch(model, sizes, 2, text=127, with_image=False)
    batch["labels"] = batch["input_ids"]
    model.train()
    for name, trained in (("all parts trained", True), ("towers frozen", False)):
        model.image_tower.requires_grad_(trained)
        model.video_tower.requires_grad_(trained)
        model.train()
        found = compare(_step(model, model, batch), _step(model.language_model, model, batch, use_cache=False), effort)
        yield Result(1, f"text-only training step, {name}", "language model alone", found, 1.03)


def with_images(effort: Effort) -> Iterator[Result]:
    """Stage 2: the tower is frozen, the rest is trained."""
    sizes = models.sized(models.LARGE if DEVICE == "cuda" else models.MIDDLE, effort)
    rows, text = (16, 1024) if DEVICE == "cuda" else (2, 255)
    ours, _ = models.composite(sizes)
    theirs, batch = models.llava(ours, sizes), models.batch(ours, sizes, rows, text)
    batch["labels"] = models.labels_for(batch, 60)
    ours.image_tower.requires_grad_(False)
    theirs.model.vision_tower.requires_grad_(False)
    ours.train(), theirs.train()
    own, other = _step(ours, ours, batch, skip_logits=True), _step(theirs, theirs, batch)
    if abs(own() - other()) > 1e-2:
        raise ValueError("Both sides must have the same loss before their speeds are compared.")
    note = throughput(own, batch["input_ids"].numel())
    yield Result(4, "training step, tower frozen", "LLaVA", compare(own, other, effort), 0.85, note=note)


def packed(effort: Effort) -> Iterator[Result]:
    """Lengths as in instruction data, many short answers and few long ones; two of three samples have an image."""
    sizes = models.sized(models.Sizes(192, 4, 2000), effort)
    rng, longest = np.random.default_rng(0), 512
    model, processor = models.composite(sizes)
    set_trainable(model, ["aligners", "language_model"], verbose=False)
    model.train()
    count = 2 if effort.tiny else 16
    rows = _samples(2 * count, longest, sizes, rng)
    collate, pack = (
        AnyModalityDataCollator(processor, max_length=longest),
        AnyModalityPackingCollator(processor, max_length=longest, model=model),
    )
    batches = [[collate(rows[:count]), collate(rows[count:])], [pack(rows)]]
    words = sum((batch["labels"] != -100).sum() for batch in batches[0])

    def steps(own: list[dict[str, torch.Tensor]]) -> Callable[[], float]:
        each = [_step(model, model, batch, num_items_in_batch=words.to(DEVICE)) for batch in own]
        return lambda: sum(step() for step in each)

    padded, own = map(steps, batches)
    if abs(padded() - own()) > 1e-3:
        raise ValueError("Both sides must have the same loss before their speeds are compared.")
    shares = [
        sum(int(batch["attention_mask"].sum()) for batch in batches[0])
        / sum(batch["input_ids"].numel() for batch in side)
        for side in batches
    ]
    note = f"tokens are {shares[1]:.0%} of the places, padded {shares[0]:.0%}"
    yield Result(
        11, "tokens per second, packed", "padded", compare(padded, own, effort), 2.0, at_least=True, note=note
    )
    count = 1000 if effort.tiny else 100_000
    lengths = np.clip(rng.lognormal(5.5, 0.9, count), 20, 4000).astype(int).tolist()
    yield Result(
        11, f"planning {count:,} samples", "a second", [seconds(lambda: plan_rows(lengths, 4096))], 1.0, unit=" s"
    )


def _samples(count: int, longest: int, sizes: models.Sizes, rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for i in range(count):
        answer = int(np.clip(rng.lognormal(np.log(90), 0.8), 8, longest - sizes.image_tokens - 60))
        said = [" ".join(f"word{w}" for w in rng.integers(10, 900, n)) for n in (rng.integers(8, 30), answer)]
        image = [{"type": "image", "image": rng.integers(0, 255, (sizes.side, sizes.side, 3), dtype=np.uint8)}]
        content = [*(image if i % 3 else []), {"type": "text", "text": f" {said[0]}"}]
        rows.append({"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": said[1]}]})
    return rows


def _step(run: Any, model: Any, batch: dict[str, torch.Tensor], **options: Any) -> Callable[[], float]:
    """Forward and backward."""

    def step() -> float:
        model.zero_grad()
        loss = run(**{name: value.to(DEVICE) for name, value in batch.items()}, **options).loss
        loss.backward()
        return loss.item()

    return step


if __name__ == "__main__":
    main(__doc__ or "", measure)
