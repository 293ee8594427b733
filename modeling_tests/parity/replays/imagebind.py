"""ImageBind: each recorded case through its tower, the trunk's tokens before and after, and the embedding step by step."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from modeling_tests.parity.recordings import Recording, watch


@torch.no_grad()
def replay(model: Any, recording: Recording) -> Iterator[tuple[str, torch.Tensor]]:
    for case, kind in recording.config["cases"].items():
        tower = getattr(model, f"{kind}_tower")
        with watch(tokens=tower.embeddings, head=tower.head, postprocessed=tower.scale) as seen:
            output = tower(recording.inputs[case])
        for step, call in seen.items():
            yield f"{case}.{step}", call.output
        yield f"{case}.normalized", nn.functional.normalize(seen["head"].output, dim=-1)
        yield f"{case}.trunk", output.last_hidden_state
        yield f"{case}.embedding", output.pooler_output
