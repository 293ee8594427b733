"""PandaGPT: a batch for training, and its demo with an image alone and with all media added up."""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from modeling_tests.parity.recordings import Recording, greedy, media_inputs, placeholder, run


@torch.no_grad()
def replay(model: Any, recording: Recording) -> Iterator[tuple[str, torch.Tensor]]:
    config, inputs = recording.config, recording.inputs
    begin = torch.tensor([[config["tokenizer"]["bos"]]])
    start = torch.cat([begin, inputs["prompt_start_ids"]], 1)
    rows = config["llama_config"]["vocab_size"]
    if "train.images" in inputs:
        yield from _training(model, inputs, start, rows)
    media = {name: inputs[f"demo.{name}"] for name in model.config.modalities if f"demo.{name}" in inputs}
    tokens = []
    for name, values in media.items():
        output = model.get_modality_features(name, values, return_dict=True)
        tokens.append(output.pooler_output)
        yield f"imagebind.demo.{name}", output.last_hidden_state
        yield f"demo.feature.{name}", output.pooler_output
    if tokens:
        yield "demo.sum_embeds", torch.stack(tokens).sum(0)
    prompts = (re.fullmatch(r"demo\.(?:inputs_embeds|logits|greedy)_(\w+)", name) for name in recording.outputs)
    for case in sorted({found[1] for found in prompts if found}):
        chosen = media if case == "all" else {case: media[case]}
        places = torch.tensor([[placeholder(model, name) for name in chosen]])
        ids = torch.cat([start, places, inputs["demo.prompt_ids"]], 1)
        given = {"input_ids": ids, **media_inputs(model, chosen)}
        embeds, visible, output = run(model, **given)
        # Media that are added up leave places behind that are not seen, and that the original does not have.
        yield f"demo.inputs_embeds_{case}", embeds[visible]
        yield f"demo.logits_{case}", output.logits[visible][:, :rows]
        if (recorded := recording.outputs.get(f"demo.greedy_{case}")) is not None:
            yield f"demo.greedy_{case}", greedy(model, recorded.shape[-1], pad=0, end=None, **given)


def _training(
    model: Any, inputs: dict[str, torch.Tensor], start: torch.Tensor, rows: int
) -> Iterator[tuple[str, torch.Tensor]]:
    images, text = inputs["train.images"], inputs["train.input_ids"]
    output = model.get_modality_features("image", images, return_dict=True)
    yield "imagebind.train.images", output.last_hidden_state
    yield "train.image_embeds", output.pooler_output
    place = torch.full((len(text), 1), placeholder(model, "image"))
    front = torch.cat([start.expand(len(text), -1), place], 1)
    ids, mask = torch.cat([front, text], 1), torch.cat([torch.ones_like(front), inputs["train.attention_mask"]], 1)
    labels = torch.cat([torch.full_like(front, -100), inputs["train.target_ids"]], 1)
    # The original counts positions through padding; at real tokens it makes no difference.
    places = torch.arange(ids.shape[1]).expand_as(ids)
    given = {"input_ids": ids, "attention_mask": mask, "position_ids": places}
    embeds, _, output = run(model, **given, **media_inputs(model, {"image": images}))
    # Over the original's vocabulary: placeholders have rows in ours, which take a little of the probability.
    logits = output.logits[..., :rows]
    yield "train.inputs_embeds", embeds
    yield "train.attention_mask_full", mask
    yield "train.targets_full", labels
    yield "train.logits", logits
    yield "train.loss", nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    chosen, wanted = logits.argmax(-1)[:, 1:-1], labels[:, 2:]
    yield "train.gen_acc", ((chosen == wanted) & (wanted != -100)).sum() / (wanted != -100).sum()
