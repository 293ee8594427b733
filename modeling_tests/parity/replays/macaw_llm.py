"""Macaw-LLM: each step of its three modalities, then prompts with all of them, with one and with none."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from modeling_tests.parity.recordings import Recording, greedy, media_inputs, placeholder, run, watch


_NAMES = ("image", "audio", "video")


@torch.no_grad()
def replay(model: Any, recording: Recording) -> Iterator[tuple[str, torch.Tensor]]:
    inputs = recording.inputs
    media = {name: inputs[f"{name}s"] for name in _NAMES if f"{name}s" in inputs}
    tokens = {}
    for name, values in media.items():
        steps = dict(_steps(model, name, values))
        tokens[name] = steps[f"{name}_aligned"].shape[1]
        yield from steps.items()
    rows = recording.config["llm_config"]["vocab_size"]
    for case, names in [("all", tuple(media)), *((name, (name,)) for name in media), ("text", ())]:
        ids, mask, labels = _prompt(model, inputs, {name: tokens[name] for name in names})
        given = {"input_ids": ids, **media_inputs(model, {name: media[name] for name in names})}
        # The original counts padding as positions.
        places = torch.arange(ids.shape[1]).expand(ids.shape)
        embeds, _, output = run(model, **given, attention_mask=mask, position_ids=places)
        logits = output.logits[..., :rows]
        yield f"{case}.inputs_embeds", embeds
        yield f"{case}.attention_mask", mask
        yield f"{case}.labels", labels
        yield f"{case}.logits", logits
        yield f"{case}.loss", nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        if (recorded := recording.outputs.get(f"{case}.greedy")) is not None:
            padding = recording.config["llm_config"].get("pad_token_id") or 0
            # Padding is attended, as in the original.
            given["attention_mask"] = torch.ones_like(ids)
            yield f"{case}.greedy", greedy(model, recorded.shape[-1], pad=padding, end=2, **given)


def _steps(model: Any, name: str, values: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """A modality's features, and what each step of its aligner makes of them."""
    aligner = model.aligner(name)
    with watch(conv=aligner.conv, hidden=aligner.projection, aligned=aligner.align_attention) as seen:
        model.get_modality_features(name, values)
    hidden = seen["hidden"].output
    if "conv" in seen:
        yield f"{name}_features", seen["conv"].args[0].transpose(1, 2)
        yield f"{name}_conv", seen["conv"].output.transpose(1, 2)
    yield f"{name}_hidden", hidden
    yield f"{name}_aligned", seen["aligned"].output.view_as(hidden)


def _prompt(model: Any, inputs: dict[str, torch.Tensor], tokens: dict[str, int]) -> tuple[torch.Tensor, ...]:
    """Ids, mask and labels of the recorded texts, with media behind their first token; mask and labels grow in front, as
    the original's do."""
    text, pieces = inputs["input_ids"], [inputs["input_ids"][:, :1]]
    for name, count in tokens.items():
        pieces += [inputs[f"{name}_starts"][:, None], text.new_full((len(text), count), placeholder(model, name))]
        pieces += [inputs[f"{name}_ends"][:, None]]
    ids = torch.cat([*pieces, text[:, 1:]], dim=1)
    front = (len(text), ids.shape[1] - text.shape[1])
    mask = torch.cat([text.new_ones(front), inputs["attention_mask"]], dim=1)
    return ids, mask, torch.cat([text.new_full(front, -100), inputs["labels"]], dim=1)
