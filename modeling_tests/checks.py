"""What tests of composites compare: logits, new tokens, what is supervised, how often a part runs; that what is refused
changed nothing; and the tiny settings of what is registered."""

import copy
from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from transformers_anymodality import AnyModalityDataCollator, AnyModalityProcessor


TIGHT = dict(atol=2e-5, rtol=1e-4)


def tiny_setting(table: Mapping[str, Any], name: str, place: str) -> Any:
    """The table's entry for a registered name. Registering is enough to be tested, where a tiny setting is given."""
    if name not in table:
        pytest.fail(f"{name!r} is registered, but has no tiny setting: add one to {place}.")
    return table[name]


def last_logits(model, inputs) -> torch.Tensor:
    """Logits at each row's last real token."""
    with torch.no_grad():
        logits = model(**inputs).logits
    last = inputs["attention_mask"].shape[1] - 1 - inputs["attention_mask"].flip(-1).argmax(-1)
    return logits[torch.arange(len(logits)), last]


class Calls:
    """Counts how often a module runs, and on how many items."""

    def __init__(self, module: torch.nn.Module):
        self.items: list[int] = []
        self.handle = module.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, module, args, kwargs):
        self.items.append(len(next(v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor))))


def new_tokens(output: torch.Tensor, inputs) -> torch.Tensor:
    return output[:, inputs["input_ids"].shape[1] :]


def padded(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([row[0] for row in rows], batch_first=True, padding_value=0)


def supervised(processor: AnyModalityProcessor, messages: list[dict], **sample) -> list[str]:
    """The supervised stretches of a sample, decoded; labels must equal the ids where they are not -100."""
    batch = AnyModalityDataCollator(processor)([{"messages": messages, **sample}])
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    kept = labels != -100
    assert torch.equal(labels[kept], ids[kept])
    stretches, current = [], []
    for token, keep in zip(ids.tolist(), kept.tolist(), strict=True):
        if keep:
            current.append(token)
        elif current:
            stretches, current = [*stretches, current], []
    return [processor.tokenizer.decode(stretch) for stretch in [*stretches, current] if stretch]


def state(processor: AnyModalityProcessor) -> Any:
    tokenizer = processor.tokenizer
    return (
        processor.to_dict(),
        tokenizer.get_vocab(),
        tokenizer.init_kwargs.keys(),
        tokenizer.padding_side,
        processor.chat_template,
    )


@contextmanager
def refused(processor: AnyModalityProcessor, message: str, *given: Any, kind: type[Exception] = ValueError):
    before, copies = state(processor), copy.deepcopy(given)
    with pytest.raises(kind, match=message) as caught:
        yield caught
    assert state(processor) == before
    assert repr(given) == repr(copies)
    assert len(str(caught.value)) < 1000
