"""How costs grow: the exponent of each, where 1 is linear.

python -m benchmarks.growth [--quick]
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from PIL import Image

from transformers_anymodality import ImageSpec, register_modality
from transformers_anymodality.modalities import MODALITIES

from . import _models as models
from ._ratio import DEVICE, Effort, Result, growth, main


SIZES = models.TINY
LINEAR = 1.1


def measure(effort: Effort) -> Iterator[Result]:
    model, processor = models.composite(SIZES)
    picture = Image.new("RGB", (SIZES.side, SIZES.side))

    def call(count: int) -> Callable[[], Any]:
        text = f"{processor.modalities['image'].token} word9 " * count
        return lambda: processor(text=[text], images=[picture] * count, return_tensors="pt")

    def place(count: int) -> Callable[[], Any]:
        inputs, tokens = call(count)(), torch.randn(count, SIZES.image_tokens, SIZES.width, device=DEVICE)
        return lambda: model.place_media(inputs["input_ids"].to(DEVICE), None, {"image": tokens})

    def text(count: int) -> Callable[[], Any]:
        said = " ".join(f"word{i % 900 + 10}" for i in range(count))
        return lambda: processor.encode_chat(_chat(1, said))

    def items(count: int) -> Callable[[], Any]:
        inputs = models.batch(model, SIZES, count, text=32)
        return lambda: model(**inputs)

    few = effort.tiny
    with torch.no_grad():
        for what, sizes, run in (
            ("media in a sample, processor", (1, 2) if few else (16, 64, 256), call),
            ("media in a sample, placing", (1, 2) if few else (16, 64, 256), place),
            ("words of a text", (10, 20) if few else (8_000, 32_000, 128_000), text),
            ("turns of a chat", (2, 4) if few else (32, 128, 512), lambda n: lambda: processor.encode_chat(_chat(n))),
            ("items of a batch, forward", (1, 2) if few else (4, 16, 64), items),
            ("modalities of a model, forward of text", (1, 2) if few else (3, 6, 12), _modalities),
        ):
            sizes = sizes if effort.largest else sizes[:-1]
            exponent = growth(sizes, run, effort)
            yield Result(13, what, f"{sizes[0]:,} to {sizes[-1]:,}", [exponent], LINEAR)


def _chat(turns: int, said: str = "word9 word10 word11") -> list[dict[str, str]]:
    return [{"role": role, "content": said} for _ in range(turns) for role in ("user", "assistant")]


def _modalities(count: int) -> Callable[[], Any]:
    """A model with `count` image modalities."""
    names = [f"view_{i}" for i in range(count)]
    for name in names:
        if name not in MODALITIES:
            register_modality(ImageSpec(name=name))
    model, _ = models.composite(SIZES, **{name: models.image(SIZES) for name in names})
    inputs = models.batch(model, SIZES, 1, text=32, with_image=False)
    return lambda: model(**inputs)


if __name__ == "__main__":
    main(__doc__ or "", measure)
