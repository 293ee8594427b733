"""X-LLM's recordings, replayed by a converted model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from .chatglm import ChatGLMConfig, positions


_UNRECORDED = 160  # positions of padding that recordings of long answers leave out
_CASES: dict[str, tuple[tuple[str, str], ...]] = {
    "vl": (("image", "Image"),),
    "video": (("video", "Video"),),
    "asr": (("speech", "Speech"),),
    "masr": (("image", "Image"), ("speech", "Speech")),
}
_INPUTS = {"image": "image", "video": "video", "speech": "speech_input"}


@torch.no_grad()
def replay(model: Any, config: dict[str, Any], inputs: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """What the original was recorded to give: each step of the interfaces, then answers to prompts with their media."""
    if not isinstance(model.language_model.config, ChatGLMConfig):
        return  # another language model says something else
    speech = getattr(model, "speech_aligner", None)
    rows = None if speech is None else speech.config.num_tokens
    if speech is not None and "speech_input" in inputs:  # recorded without filling it up to the release's rows
        speech.config.num_tokens = inputs["speech_input"].shape[1]
    for case, media in _CASES.items():
        known = [name for name, _ in media if _INPUTS[name] in inputs and name in model.config.modalities]
        given = {name: inputs[_INPUTS[name]] for name in known}
        if len(given) < len(media):
            continue
        encoded = {}
        for name, values in given.items():
            encoded[name], steps = _steps(model, name, values)
            if case != "masr":
                yield from ((f"{case}.{step}", value) for step, value in steps)
        yield from _answers(model, config, case, media, encoded)
    if speech is not None:
        speech.config.num_tokens = rows


def _steps(model: Any, name: str, values: torch.Tensor) -> tuple[Any, list[tuple[str, torch.Tensor]]]:
    """A medium's tokens, and what each step of its interface gives."""
    aligner, caught = model.aligner(name), {}
    modules = {"bert_projection": "pre", "bert": "bert", "feature_norm": "ln_vision", "qformer_layers": "qformer"}

    def catch(step: str) -> Callable:
        return lambda module, args, output: caught.update({step: getattr(output, "last_hidden_state", output)})

    found = {step: getattr(aligner, module) for module, step in modules.items() if hasattr(aligner, module)}
    handles = [module.register_forward_hook(catch(step)) for step, module in found.items()]
    encoded = model.get_modality_features(name, values, return_dict=True)
    for handle in handles:
        handle.remove()
    if name == "speech":
        steps = [("pre", caught["pre"].relu()), ("bert", caught["bert"]), ("post", encoded.pooler_output)]
        return encoded, steps
    # The original has frames one after the other here.
    steps = [("vit", encoded.last_hidden_state.flatten(0, 1))] if name == "image" else []
    steps += [("ln_vision", caught["ln_vision"].flatten(0, 1)), ("qformer", caught["qformer"])]
    return encoded, [*steps, ("proj", encoded.pooler_output.reshape(*caught["qformer"].shape[:2], -1))]


def _answers(
    model: Any, config: dict[str, Any], case: str, media: tuple[tuple[str, str], ...], encoded: dict[str, Any]
) -> Iterator[tuple[str, torch.Tensor]]:
    """A batch of prompts with answers: its inputs, logits and loss; and eight tokens in answer to the first."""
    table, (source, target) = config["token_table"], config["text_lens"][case]
    spans = {name: _span(model, table, name, label, encoded[name]) for name, label in media}
    front = [token for span in spans.values() for token in span]
    pairs = zip(config["text_input"], config["text_output"], strict=True)
    texts = [_text(config["glm"], table[question], table[answer], source, target) for question, answer in pairs]
    ids = torch.tensor([[*front, *text] for text, _ in texts])
    labels = torch.tensor([[-100] * len(front) + learned for _, learned in texts])
    # The original has zeros for what media take the place of.
    media_places = torch.arange(ids.shape[1]) < len(front)
    yield f"{case}.input_ids", ids.masked_fill(media_places, 0)
    yield f"{case}.labels", labels
    real = torch.ones_like(ids, dtype=torch.bool)
    yield f"{case}.position_ids", positions(ids, real, model.language_model.config)[0].transpose(0, 1)
    kept = slice(None, -_UNRECORDED if target > _UNRECORDED else None)
    embeds, start = model.place_media(ids, None, encoded).inputs_embeds, 0
    yield f"{case}.inputs_embeds", embeds[:, kept]
    for name, span in spans.items():
        yield f"{case}.wrapped_{'image' if name == 'video' else name}", embeds[:, start : start + len(span)]
        start += len(span)
    # Without the rows of placeholders, which the recorded vocabulary lacks.
    logits = model(input_ids=ids, mm_encoder_outputs=dict(encoded)).logits[..., : config["glm"]["vocab_size"]]
    yield f"{case}.logits", logits[:, kept]
    yield f"{case}.loss", nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    yield from _greedy(model, config, case, front, encoded)


def _greedy(
    model: Any, config: dict[str, Any], case: str, front: list[int], encoded: dict[str, Any]
) -> Iterator[tuple[str, torch.Tensor]]:
    glm, source = config["glm"], config["text_lens"][case][0]
    question = config["token_table"][config["text_input"][0]][: source - 1]
    ids = torch.tensor([[*front, *question, glm["gmask_token_id"], glm["bos_token_id"]]])
    yield f"{case}.gen_input_ids", ids.masked_fill(torch.arange(ids.shape[1]) < len(front), 0)
    first = {name: output.pooler_output[:1] for name, output in encoded.items()}
    ends = {"eos_token_id": glm["eos_token_id"], "pad_token_id": glm["pad_token_id"]}
    found = model.generate(input_ids=ids, mm_encoder_outputs=first, max_new_tokens=8, do_sample=False, **ends)
    yield f"{case}.greedy", found[:, ids.shape[1] :]


def _span(model: Any, table: dict[str, list[int]], name: str, label: str, encoded: Any) -> list[int]:
    """Ids of a medium between its delimiters."""
    placeholders = [model.config.modalities[name].token_id] * encoded.pooler_output.shape[1]
    return [*table[f"<{label}>"], *placeholders, *table[f"</{label}>"]]


def _text(
    glm: dict[str, Any], question: list[int], answer: list[int], source: int, target: int
) -> tuple[list[int], list[int]]:
    """Ids and labels of a question and its answer, filled up on the right to `source + target`."""
    context = [*question[: source - 1], glm["gmask_token_id"]]
    learned = [glm["bos_token_id"], *answer[: target - 2], glm["eos_token_id"]]
    rest = source + target - len(context) - len(learned)
    ids = [*context, *learned, *[glm["pad_token_id"]] * rest]
    return ids, [*[-100] * len(context), *learned, *[-100] * rest]
