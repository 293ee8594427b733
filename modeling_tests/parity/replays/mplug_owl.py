"""mPLUG-Owl: the tower layer by layer, the abstractor, a batch for training, and greedy answers."""

import inspect
from collections.abc import Iterator
from typing import Any

import torch

from modeling_tests.parity.recordings import Recording, greedy, placeholder, run, watch


_MEDIA = {-1: "image", -2: "video"}  # ids of media in the release's inputs


@torch.no_grad()
def replay(model: Any, recording: Recording) -> Iterator[tuple[str, torch.Tensor]]:
    rows = recording.config["text_config"]["vocab_size"]  # ours has more, for placeholders
    for name, values in {"image": "pixel_values", "video": "gen.video_pixel_values"}.items():
        if values in recording.inputs:
            yield from _vision(model, f"vision_{name}", _frames_first(recording.inputs[values]))
    if "fwd.input_ids" in recording.inputs:
        yield from _training(model, rows, recording.inputs)
    if "gen.input_ids" in recording.inputs:
        yield from _answers(model, rows, recording)


def _placeholders(model: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """Ids as ours: the release has negative ones for media."""
    for theirs, modality in _MEDIA.items():
        input_ids = input_ids.masked_fill(input_ids == theirs, placeholder(model, modality))
    return input_ids


def _frames_first(pixels: torch.Tensor) -> torch.Tensor:
    """Videos `(items, frames, channels, height, width)`, the release has channels before frames; images as they are."""
    return pixels.transpose(1, 2) if pixels.ndim == 5 else pixels


def _vision(model: Any, name: str, pixels: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    tower, aligner = model.tower("image"), model.aligner("image")
    output = tower(pixels, output_hidden_states=True)
    yield f"{name}.last_hidden_state", output.last_hidden_state
    yield f"{name}.pooler_output", output.pooler_output
    yield from ((f"{name}.hidden_states.{i}", states) for i, states in enumerate(output.hidden_states))
    with watch(last=aligner.layers[-1]) as seen:
        tokens = aligner(output.last_hidden_state.unsqueeze(1))
    yield f"{name}.abstractor_encoder", seen["last"].output
    yield f"{name}.abstractor", tokens


def _training(model: Any, rows: int, inputs: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    labels = inputs["fwd.labels"].clone()
    learned = inputs["fwd.non_padding_mask"] * inputs["fwd.non_media_mask"] * inputs["fwd.prompt_mask"]
    labels[:, 1:][learned != 1] = -100
    yield "fwd.labels_effective", labels
    arguments = {
        "input_ids": _placeholders(model, inputs["fwd.input_ids"]),
        "attention_mask": inputs["fwd.attention_mask"],
        "pixel_values": inputs["pixel_values"],
    }
    if "position_ids" in inspect.signature(model.language_model.forward).parameters:
        # The release counts padding on the right, too, whose logits are recorded.
        arguments["position_ids"] = torch.arange(labels.shape[1]).expand(labels.shape)
    embeds, _, output = run(model, **arguments)
    yield "fwd.inputs_embeds", embeds
    logits = output.logits[..., :rows]
    yield "fwd.logits", logits
    yield "fwd.loss", model.loss_function(logits, labels, vocab_size=rows)


def _answers(model: Any, rows: int, recording: Recording) -> Iterator[tuple[str, torch.Tensor]]:
    theirs = recording.inputs["gen.input_ids"]
    mask = torch.where(theirs < 0, torch.ones(()), recording.inputs["gen.attention_mask"].float())
    yield "gen.attention_mask_eff", mask
    arguments = {"input_ids": _placeholders(model, theirs), "attention_mask": mask.long()}
    for ours, name in {"pixel_values": "gen.pixel_values", "pixel_values_videos": "gen.video_pixel_values"}.items():
        if name in recording.inputs:
            arguments[ours] = _frames_first(recording.inputs[name])
    embeds, _, output = run(model, **arguments)
    yield "gen.inputs_embeds", embeds
    yield "gen.logits", output.logits[..., :rows]
    if (recorded := recording.outputs.get("gen.greedy")) is not None:
        yield "gen.greedy", greedy(model, recorded.shape[-1], pad=0, end=2, **arguments)
