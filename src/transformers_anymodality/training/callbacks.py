"""Callbacks for the stock Trainer: speed, the loss of each modality, and a few answers."""

import time
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from anymodality.plain.printing import in_markdown, visible

from ..data.records import read_chat
from ..processing.chat import parts_of
from ..processing.processor import AnyModalityProcessor
from ..utils.files import json_lines
from ..utils.tensors import in_eval, is_sharded
from ..utils.upstream import trackers


class _BeforeTrackers(TrainerCallback):
    callbacks: list[TrainerCallback] = []

    def attach(self, trainer: Trainer) -> None:
        """Adds it to a Trainer, before the trackers (`report_to`), so that they get its values, also at the end."""
        self.callbacks = trainer.callback_handler.callbacks
        self.callbacks.insert(0, self)


class ThroughputCallback(_BeforeTrackers):
    """Adds `samples_per_second` and `tokens_per_second`, over all processes, to each entry of the training log.

    Only training time since the last entry counts: reading data is included, evaluation and saving are not. Tokens (with
    those of media, without padding) are counted with `include_num_input_tokens_seen="non_padding"`.
    """

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self.seconds, self.since = 0.0, time.perf_counter()
        self.step, self.tokens = state.global_step, state.num_input_tokens_seen

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        now = time.perf_counter()
        self.seconds, self.since = self.seconds + now - self.since, now

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self.since = time.perf_counter()

    on_save = on_evaluate

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        logs = kwargs["logs"]
        if "loss" not in logs or not self.seconds:
            return
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        speed = {"samples_per_second": (state.global_step - self.step) * batch / self.seconds}
        if args.include_num_input_tokens_seen != "no":
            speed["tokens_per_second"] = (state.num_input_tokens_seen - self.tokens) / self.seconds
        for entry in (logs, state.log_history[-1]):
            entry.update({name: round(value, 2) for name, value in speed.items()})
        self.seconds, self.step, self.tokens = 0.0, state.global_step, state.num_input_tokens_seen


class AnswersCallback(_BeforeTrackers):
    """Lets the model answer a few samples at each evaluation and at the end; prints and stores the answers.

    They are appended to `answers.jsonl` in the output folder: step, question, answer, expected answer. Trackers
    (`report_to`) that show tables get them as a table: trackio, wandb, and TensorBoard (as text). If weights are sharded
    over processes (FSDP2, ZeRO-3), all processes generate together.

    Args:
        samples: chats as the collator takes them; the assistant's last message is the expected answer.
        generation: arguments of `generate`.
    """

    def __init__(self, samples: Iterable[Mapping[str, Any]], **generation):
        self.chats = [read_chat(i, sample).checked().messages for i, sample in enumerate(samples)]
        self.generation = {"max_new_tokens": 32, "do_sample": False, **generation}
        self.answered_step = -1

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if not isinstance(kwargs["processing_class"], AnyModalityProcessor):
            raise ValueError("AnswersCallback needs the Trainer's processor: pass `processing_class=processor` to it.")

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self.on_train_begin(args, state, control, **kwargs)
        if state.global_step != self.answered_step:  # there may be several evaluation sets
            rows = self._answer(args, state, kwargs["model"], kwargs["processing_class"])
            for table, tracker in tables(rows, self.callbacks):
                tracker.on_log(args, state, control, logs={"eval_answers": table}, model=kwargs["model"])

    on_train_end = on_evaluate

    @torch.no_grad()
    def _answer(
        self, args: TrainingArguments, state: TrainerState, model: Any, processor: Any
    ) -> list[dict[str, Any]]:
        self.answered_step = state.global_step
        together, entries = is_sharded(model), []
        if not (together or state.is_world_process_zero):
            return entries
        with in_eval(model):
            for question, expected in map(_question, self.chats):
                inputs = processor.apply_chat_template(
                    question, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
                ).to(model.device)
                output = model.generate(**inputs, **self.generation, synced_gpus=together)
                said = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
                if state.is_world_process_zero:
                    asked = _words(question)
                    entry = {"step": state.global_step, "question": asked, "answer": said, "expected": expected}
                    entries.append(entry)
                    print(visible(f"  {asked}\n    -> {said}   (expected: {expected})"), flush=True)
                    with Path(args.output_dir, "answers.jsonl").open("a", encoding="utf-8") as file:
                        file.write(json_lines([entry]))
        return entries


def tables(rows: list[dict[str, Any]], callbacks: Iterable[TrainerCallback]) -> Iterator[tuple[Any, TrainerCallback]]:
    """The rows as a table for each tracker among the callbacks that shows tables, and the tracker."""
    if not rows:
        return
    columns, data = [*rows[0]], [[*row.values()] for row in rows]
    rule = " | ".join(["---"] * len(columns))
    for name, tracker in trackers(callbacks):
        if name == "tensorboard":  # which shows texts as Markdown
            head, *lines = [" | ".join(map(in_markdown, line)) for line in [columns, *data]]
            yield "\n".join(f"| {line} |" for line in [head, rule, *lines]), tracker
        elif name in ("trackio", "wandb"):
            yield import_module(name).Table(columns=columns, data=data), tracker


def by_modality(samples: Any) -> dict[str, Any]:
    """Splits evaluation data by the modalities in a sample: the Trainer then logs the loss of each split.

    Args:
        samples: a `datasets.Dataset`, or a list of chats as the collator takes them.

    Returns "image", "audio_image" (both), "text" (neither), ... -> its samples, as `eval_dataset` of the Trainer, which
    logs `eval_image_loss` and so on.
    """
    rows: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        rows.setdefault("_".join(sorted(read_chat(i, sample).media)) or "text", []).append(i)
    select = getattr(samples, "select", None)
    return {
        name: select(rows[name]) if select is not None else [samples[i] for i in rows[name]] for name in sorted(rows)
    }


def _question(messages: list[dict]) -> tuple[list[dict], str]:
    """A chat before its last answer, and that answer."""
    last = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=len(messages))
    return messages[:last], _words(messages[last : last + 1])


def _words(messages: list[dict]) -> str:
    """A chat in one line, media by their names."""
    parts = [
        (part.get("text") or "").strip() if part.get("type", "text") == "text" else f"<{part['type']}>"
        for part in parts_of(messages)
    ]
    return " ".join(filter(None, parts))
