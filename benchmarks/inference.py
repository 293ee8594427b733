"""Forward, prefill and decoding of a composite, against its language model alone, its parts called by hand, and LLaVA with
the same weights; and how often the host waits for the device.

    python -m benchmarks.inference [--quick]
"""

from collections.abc import Iterator
from typing import Any

import torch
from modeling_tests.host_waits import host_waits

from . import _models as models
from ._ratio import Effort, Result, compare, main


def measure(effort: Effort) -> Iterator[Result]:
    with torch.no_grad():
        yield from decoding(effort)
        yield from whole(effort)
    yield from waits()


def decoding(effort: Effort) -> Iterator[Result]:
    """A tiny language model, so that the code between it and `generate` weighs most."""
    sizes, new = models.TINY, 4 if effort.tiny else 64
    ours, _ = models.composite(sizes)
    greedy: dict[str, Any] = dict(max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=3)
    text = models.batch(ours, sizes, 1, with_image=False)
    bare = ours.language_model
    _agree(ours.generate(**text, **greedy), bare.generate(**text, **greedy))
    found = compare(lambda: ours.generate(**text, **greedy), lambda: bare.generate(**text, **greedy), effort)
    yield Result(2, f"generate {new} words, tiny", "language model alone", found, 1.05)
    theirs, inputs = models.llava(ours, sizes), models.batch(ours, sizes, 1)
    _agree(ours.generate(**inputs, **greedy), theirs.generate(**inputs, **greedy))
    found = compare(lambda: ours.generate(**inputs, **greedy), lambda: theirs.generate(**inputs, **greedy), effort)
    yield Result(2, f"generate {new} words after an image, tiny", "LLaVA", found, 1.0)


def whole(effort: Effort) -> Iterator[Result]:
    sizes = models.sized(models.MIDDLE, effort)
    ours, _ = models.composite(sizes)
    theirs, inputs = models.llava(ours, sizes), models.batch(ours, sizes, 1)
    mask = inputs["attention_mask"]

    def by_hand(**options: Any) -> torch.Tensor:
        embeds = models.embeddings_by_hand(ours, inputs)
        return ours.language_model(inputs_embeds=embeds, attention_mask=mask, **options).logits

    for what, options in (("forward", {}), ("prefill", {"logits_to_keep": 1, "use_cache": True})):
        expected = ours(**inputs, **options).logits
        torch.testing.assert_close(expected, by_hand(**options), atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(expected, theirs(**inputs, **options).logits, atol=1e-3, rtol=1e-3)
        for rival, run, limit in (
            ("parts by hand", lambda: by_hand(**options), 1.01),  # noqa: B023
            ("LLaVA", lambda: theirs(**inputs, **options), 0.95),  # noqa: B023
        ):
            found = compare(lambda: ours(**inputs, **options), run, effort)  # noqa: B023
            yield Result(3, f"{what} with an image", rival, found, limit)


def waits() -> Iterator[Result]:
    """Counts operators whose result Python needs; the number does not vary."""
    sizes = models.TINY
    ours, _ = models.composite(sizes)
    theirs, inputs = models.llava(ours, sizes), models.batch(ours, sizes, 2)
    labels = models.labels_for(inputs, 8)

    def steps(model: Any, **given: Any) -> float:
        """Waits of one decoding step of `generate`."""
        few, many = (
            host_waits(model.generate, **given, max_new_tokens=n, min_new_tokens=n, do_sample=False, pad_token_id=3)
            for n in (2, 12)
        )
        return (many - few) / 10

    text = {name: value for name, value in inputs.items() if name != "pixel_values"}
    text["input_ids"] = text["input_ids"].clamp(max=900)
    bare = steps(ours.language_model, **text)
    yield Result(5, "host waits, decoding step", "language model alone", [steps(ours, **inputs)], bare)
    with torch.no_grad():
        own, other, alone = (
            host_waits(model, **given)
            for model, given in ((ours, inputs), (theirs, inputs), (ours.language_model, text))
        )
    yield Result(5, "host waits, prefill", "LLaVA", [own], other, note=f"language model alone {alone}")
    own = host_waits(ours.train(), **inputs, labels=labels, skip_logits=True)
    other = host_waits(theirs.train(), **inputs, labels=labels)
    alone = host_waits(ours.language_model, **text, labels=labels)
    yield Result(5, "host waits, forward of training", "LLaVA", [own], other, note=f"language model alone {alone}")


def _agree(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    if not torch.equal(ours, theirs):
        raise ValueError("Both sides must give the same answer before their speeds are compared.")


if __name__ == "__main__":
    main(__doc__ or "", measure)
