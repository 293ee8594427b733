"""CIF, in evaluation and in training. A recording holds several; the names of each begin with its own ("cif0.")."""

from collections.abc import Iterator
from typing import Any

import torch

from modeling_tests.parity.recordings import Recording


@torch.no_grad()
def replay(model: Any, recording: Recording, which: int = 0) -> Iterator[tuple[str, torch.Tensor]]:
    frames, padding, lengths = (
        recording.inputs[f"cif{which}.{name}"] for name in ("x", "padding_mask", "target_lengths")
    )
    for mode in ("eval", "train"):
        model.train(mode == "train")
        output = model(frames, ~padding.bool(), lengths, return_dict=True)
        yield f"cif{which}.{mode}.cif_out", output.last_hidden_state
        yield f"cif{which}.{mode}.cif_out_padding_mask", output.attention_mask
        yield f"cif{which}.{mode}.quantity_out", output.quantity
    model.eval()
