"""X-LLM: each step of its interfaces, then answers to prompts with their media: an image, a video, speech, and an image
with speech."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from modeling_tests.parity.recordings import Recording, greedy, placeholder, run, watch
from transformers_anymodality.systems.x_llm.chatglm import positions


_CASES = {
    "vl": {"image": "Image"},
    "video": {"video": "Video"},
    "asr": {"speech": "Speech"},
    "masr": {"image": "Image", "speech": "Speech"},
}
_INPUTS = {"image": "image", "video": "video", "speech": "speech_input"}


@torch.no_grad()
def replay(model: Any, recording: Recording, suffix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """`suffix`: of the cases with speech, which alone are given then, where a second speech interface was recorded."""
    if "speech" in model.config.modalities:
        # Recorded without filling it up to the release's rows.
        model.speech_aligner.config.num_tokens = recording.inputs["speech_input"].shape[1]
    for case, media in _CASES.items():
        known = all(name in model.config.modalities and _INPUTS[name] in recording.inputs for name in media)
        if not known or (suffix and "speech" not in media):
            continue
        encoded = {}
        for name in media:
            encoded[name], steps = _steps(model, name, recording.inputs[_INPUTS[name]])
            yield from ((f"{case}{suffix}.{step}", value) for step, value in steps.items() if case != "masr")
        yield from _answers(model, recording, case, f"{case}{suffix}", encoded)


def _steps(model: Any, name: str, values: torch.Tensor) -> tuple[Any, dict[str, torch.Tensor]]:
    """A modality's tokens, and what each step of its interface gives."""
    aligner = model.aligner(name)
    modules = {"pre": "bert_projection", "bert": "bert", "ln_vision": "feature_norm", "qformer": "qformer_layers"}
    with watch(**{step: getattr(aligner, module, None) for step, module in modules.items()}) as seen:
        encoded = model.get_modality_features(name, values, return_dict=True)
    steps = {step: call.states for step, call in seen.items()}
    if name == "speech":
        if "pre" in steps:
            steps["pre"] = steps["pre"].relu()
        # Without a BERT, the projection is the only step.
        last = ("post",) if aligner.config.bert else ("proj", "post")
        return encoded, {**steps, **dict.fromkeys(last, encoded.pooler_output)}
    return encoded, {"vit": encoded.last_hidden_state, **steps, "proj": encoded.pooler_output}


def _answers(
    model: Any, recording: Recording, case: str, label: str, encoded: dict[str, Any]
) -> Iterator[tuple[str, torch.Tensor]]:
    """A batch of prompts with answers: its inputs, logits and loss; and tokens in answer to the first."""
    config = recording.config
    table, (source, target) = config["token_table"], config["text_lens"][case]
    spans = {name: _span(model, table, name, tag, encoded[name]) for name, tag in _CASES[case].items()}
    front = [token for span in spans.values() for token in span]
    pairs = zip(config["text_input"], config["text_output"], strict=True)
    texts = [_text(config["glm"], table[question], table[answer], source, target) for question, answer in pairs]
    ids = torch.tensor([[*front, *text] for text, _ in texts])
    labels = torch.tensor([[-100] * len(front) + learned for _, learned in texts])
    # The original has zeros for what media take the place of.
    yield f"{label}.input_ids", ids.masked_fill(torch.arange(ids.shape[1]) < len(front), 0)
    yield f"{label}.labels", labels
    real = torch.ones_like(ids, dtype=torch.bool)
    yield f"{label}.position_ids", positions(ids, real, model.language_model.config)[0].transpose(0, 1)
    embeds, _, output = run(model, input_ids=ids, mm_encoder_outputs=dict(encoded))
    # Without the rows of placeholders, which the recorded vocabulary lacks.
    logits = output.logits[..., : config["glm"]["vocab_size"]]
    for name, states in {"inputs_embeds": embeds, "logits": logits}.items():
        yield f"{label}.{name}", _recorded_part(recording, f"{label}.{name}", states, labels)
    start = 0
    for name, span in spans.items():
        yield f"{label}.wrapped_{'image' if name == 'video' else name}", embeds[:, start : start + len(span)]
        start += len(span)
    yield f"{label}.loss", nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    yield from _greedy(model, recording, case, label, front, encoded)


def _recorded_part(recording: Recording, name: str, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """`(batch, length, dim)` without the padding at the end of long answers that recordings leave out."""
    recorded = recording.outputs.get(name)
    if recorded is None or (labels[:, recorded.shape[1] :] != -100).any():
        return states
    return states[:, : recorded.shape[1]]


def _greedy(
    model: Any, recording: Recording, case: str, label: str, front: list[int], encoded: dict[str, Any]
) -> Iterator[tuple[str, torch.Tensor]]:
    config, glm = recording.config, recording.config["glm"]
    question = config["token_table"][config["text_input"][0]][: config["text_lens"][case][0] - 1]
    ids = torch.tensor([[*front, *question, glm["gmask_token_id"], glm["bos_token_id"]]])
    yield f"{label}.gen_input_ids", ids.masked_fill(torch.arange(ids.shape[1]) < len(front), 0)
    if (recorded := recording.outputs.get(f"{label}.greedy")) is not None:
        first = {name: output.pooler_output[:1] for name, output in encoded.items()}
        ends = {"pad": glm["pad_token_id"], "end": glm["eos_token_id"]}
        yield f"{label}.greedy", greedy(model, recorded.shape[-1], **ends, input_ids=ids, mm_encoder_outputs=first)


def _span(model: Any, table: dict[str, list[int]], name: str, tag: str, encoded: Any) -> list[int]:
    """Ids of a medium between its delimiters."""
    placeholders = [placeholder(model, name)] * encoded.pooler_output.shape[1]
    return [*table[f"<{tag}>"], *placeholders, *table[f"</{tag}>"]]


def _text(
    glm: dict[str, Any], question: list[int], answer: list[int], source: int, target: int
) -> tuple[list[int], list[int]]:
    """Ids and labels of a question and its answer, filled up on the right to `source + target`."""
    context = [*question[: source - 1], glm["gmask_token_id"]]
    learned = [glm["bos_token_id"], *answer[: target - 2], glm["eos_token_id"]]
    rest = source + target - len(context) - len(learned)
    ids = [*context, *learned, *[glm["pad_token_id"]] * rest]
    return ids, [*[-100] * len(context), *learned, *[-100] * rest]
