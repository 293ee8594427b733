"""TRL's trainers with media of any modality. They know only images; `with_media` adds all others.

Losses, sampling, rewards, metrics and errors stay TRL's. This module only turns records into model inputs.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch

from ..data.records import Chat, items_of, media_columns, read_chat
from ..model.configuration import AnyModalityConfig
from ..model.frames import take_media
from ..model.modeling import AnyModalityPreTrainedModel
from ..processing.processor import AnyModalityProcessor
from ..processing.tokenization import Prompt, pad
from ..utils.imports import require


def with_media(trainer: type) -> type:
    """A subclass of a TRL trainer whose records may have media of any modality: `with_media(DPOTrainer)(model, ...)`.

    For the trainers of SFT, DPO, KTO, rewards, GRPO and RLOO, and their subclasses. All is as in TRL, with the processor as
    `processing_class`, except for the records. Media are in the parts of messages, or in columns named by their arguments
    (`images`, `audio`, `imu`, ...) in the order of bare parts (`{"type": "imu"}`). If messages are plain strings, media come
    before the first user message. Media tokens are never learned.

    Raises:
        ImportError: TRL is not installed.
    """
    rewards = issubclass(trainer, require("trl", "trl").RewardTrainer)
    generates = hasattr(trainer, "_generate_and_score_completions")
    own = _Rewarding if rewards else _Generating if generates else _Collating
    return type(trainer.__name__, (own, trainer), {"__doc__": trainer.__doc__})


# --- records to batches ------------------------------------------------------------------------------------------------


@dataclass
class _Collator:
    """Turns TRL's records into the inputs of its trainers: `input_ids`, `attention_mask` `(rows, sequence)` int64, padded on
    the right, the media's model inputs in the order of the rows, and

    - for `messages`: `labels`;
    - for `prompt` and `completion`: `labels`; with `label`, `completion_mask`, and the same (`KL_...`) for each prompt and
      the completion of the previous record;
    - for `prompt`, `chosen` and `rejected`: `completion_mask`, and `margin` if there is one; first the rows of all chosen,
      then those of all rejected. Without `prompt`, it is the messages that both begin with.
    """

    processor: AnyModalityProcessor
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    assistant_only_loss: bool = False
    completion_only_loss: bool = True

    def __call__(self, records: list[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        shared = require("trl.data_utils", "trl").maybe_extract_prompt
        records = [{**record, **shared(dict(record))} for record in records]
        keys = [key for key in ("chosen", "rejected") if key in records[0]] or ["completion"]
        rows = [self._row(i, record, record.get(key)) for key in keys for i, record in enumerate(records)]
        prompts = [prompt for _, prompt in rows]
        media = {
            name: [item for chat, _ in rows for item in chat.media.get(name, ())] for name in self.processor.modalities
        }
        inputs, token_counts = self.processor.process_media(media)
        batch = self._batch(prompts, token_counts)
        if "label" in records[0]:
            before = [records[i - 1]["completion"] for i in range(len(records))]
            others = [self._row(i, record, before[i])[1] for i, record in enumerate(records)]
            batch |= {f"KL_{name}": value for name, value in self._batch(others, token_counts).items()}
            batch["label"] = torch.tensor([bool(record["label"]) for record in records])
        elif "margin" in records[0]:
            batch["margin"] = torch.tensor([record["margin"] for record in records], dtype=torch.float)
        elif "chosen" not in records[0]:
            mask = batch.pop("completion_mask")
            batch["labels"] = batch["input_ids"].masked_fill(mask == 0, -100)
        return {**batch, **inputs}

    def _row(self, index: int, record: Mapping[str, Any], answer: list | None) -> tuple[Chat, Prompt]:
        """A record's chat with one of its answers, and its tokens; `said` marks the tokens to learn."""
        chat = _read(index, record, self.processor, answer)
        if answer is None:
            prompt = self.processor.tokenize_chat(chat.messages, chat.tools, said=self.assistant_only_loss)
            learned = prompt.said if self.assistant_only_loss else np.ones_like(prompt.said)
        else:
            prompt = self.processor.tokenize_chat(chat.messages, chat.tools)
            same = 0
            if (before := chat.messages[: -len(answer)]) and self.completion_only_loss:
                asked = self.processor.tokenize_chat(before, chat.tools, add_generation_prompt=True)
                # As in TRL: the answer starts where the chats with and without it first differ.
                shared = min(len(prompt.ids), len(asked.ids))
                same = np.logical_and.accumulate(prompt.ids[:shared] == asked.ids[:shared]).sum()
            learned = np.arange(len(prompt.ids)) >= same
        prompt.said = learned & ~prompt.is_medium
        return chat, prompt

    def _batch(self, prompts: list[Prompt], token_counts: Mapping[str, list[int]]) -> dict[str, torch.Tensor]:
        self.processor.prompt_tokenizer.place_media(prompts, token_counts)
        if self.max_length is not None:
            prompts = [prompt.truncated(self.max_length, "right", f"Row {i}") for i, prompt in enumerate(prompts)]
        rows = [prompt.expanded() for prompt in prompts]
        columns = {
            "input_ids": ([row.ids for row in rows], self.processor.tokenizer.pad_token_id),
            "attention_mask": ([np.ones_like(row.ids) for row in rows], 0),
            "completion_mask": ([row.said.astype(np.int64) for row in rows], 0),
        }
        padded = {name: pad(rows, value, multiple=self.pad_to_multiple_of) for name, (rows, value) in columns.items()}
        return {name: torch.from_numpy(np.stack(rows)) for name, rows in padded.items()}


def _read(index: int, record: Mapping[str, Any], processor: AnyModalityProcessor, answer: Any = None) -> Chat:
    """A record's chat, only its prompt or with one of its answers; every medium is in its part."""
    messages = record.get("messages") or record.get("prompt")
    if not isinstance(messages, list) or isinstance(answer, str):
        raise ValueError(
            f"Record {index} is not a chat: `messages`, `prompt` and answers must be lists of messages. It has "
            f"{', '.join(f'{name} ({type(value).__name__})' for name, value in record.items())}."
        )
    columns = {name: record[column] for name, column in media_columns(record).items()}
    places = [{"type": name} for name, column in columns.items() for _ in items_of(name, column)]
    users = [i for i, message in enumerate(messages) if message["role"] == "user"]
    if places and users and not any(isinstance(message.get("content"), list) for message in messages):
        asked = messages[users[0]]
        content = [*places, {"type": "text", "text": asked["content"]}]
        messages = [*messages[: users[0]], {**asked, "content": content}, *messages[users[0] + 1 :]]
    return read_chat(index, {**record, "messages": [*messages, *(answer or ())]}, processor).checked()


def _plain(chat: Chat) -> list[dict[str, Any]]:
    """Its messages with every medium under the name of its modality: TRL does not know paths of images."""
    media = {name: iter(items) for name, items in chat.media.items()}
    messages = []
    for message in chat.messages:
        if isinstance(parts := message.get("content"), list):
            kinds = [part.get("type") for part in parts]
            parts = [
                {"type": kind, kind: next(media[kind])} if kind in media else part
                for kind, part in zip(kinds, parts, strict=True)
            ]
            message = {**message, "content": parts}
        messages.append(message)
    return messages


def _without_media(message: dict[str, Any]) -> dict[str, Any]:
    """The message with only the types of the media in its parts."""
    parts = message.get("content")
    if not isinstance(parts, list):
        return message
    parts = [part if part.get("type") == "text" else {"type": part.get("type")} for part in parts]
    return {**message, "content": parts}


# --- trainers ----------------------------------------------------------------------------------------------------------


class _Collating:
    """For trainers that pass records to the collator unchanged: SFT, DPO, KTO."""

    # As TRL does with image data: it passes records to the collator unchanged.
    _is_vision_dataset = property(lambda self: True, lambda self, found: None)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.args.remove_unused_columns = False
        if type(self.data_collator).__module__.partition(".")[0] == "trl":  # none was given
            self.data_collator = _Collator(
                self.processing_class,
                self.args.max_length,
                self.args.pad_to_multiple_of,
                getattr(self.args, "assistant_only_loss", False),
                getattr(self, "completion_only_loss", True),
            )


class _Rewarding(_Collating):
    """For `RewardTrainer`, which knows only tokenizers, and prepares all data."""

    def __init__(self, *args, processing_class: AnyModalityProcessor, **kwargs):
        super().__init__(*args, processing_class=processing_class.tokenizer, **kwargs)
        self.processing_class = processing_class
        if isinstance(self.data_collator, _Collator):
            self.data_collator.processor = processing_class

    def _prepare_dataset(self, dataset: Any, *args) -> Any:
        return dataset

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args, **kwargs) -> Any:
        inputs.pop("completion_mask", None)  # the reward is for the full chat
        return super().compute_loss(model, inputs, *args, **kwargs)


class _Generating:
    """For trainers that generate answers and learn from their rewards: GRPO, RLOO.

    TRL passes all media to `generate`, but only images to its loss. Here both get the same inputs.
    """

    def __init__(self, *args, **kwargs):
        config = getattr(kwargs.get("model", *args[:1]), "config", None)
        lent = isinstance(config, AnyModalityConfig) and not hasattr(config, "image_token_id")
        if lent:  # TRL bans this token in generation; the composite bans every placeholder itself
            config.image_token_id = config.placeholder_ids[0]
        try:
            super().__init__(*args, **kwargs)
        finally:
            if lent:
                del config.image_token_id
        unsupported = ("use_vllm", "rollout_func", "tools", "environment_factories")
        if used := [name for name in unsupported if getattr(self, name, None)]:
            raise ValueError(
                f"`with_media` does not work with {', '.join(used)}: answers come from `model.generate`. Leave it out."
            )
        if any(isinstance(reward, AnyModalityPreTrainedModel) for reward in self.reward_funcs):
            raise ValueError(
                "A composite is in `reward_funcs`, but TRL gives reward models only text, without media. Pass a "
                "function that calls it: the parts of `prompts` hold the media."
            )

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._chats = [_read(i, record, self.processing_class) for i, record in enumerate(inputs)]
        columns = {"image", "images", *chain.from_iterable(media_columns(record).values() for record in inputs)}
        records = [
            {**{key: value for key, value in record.items() if key not in columns}, "prompt": _plain(chat)}
            for record, chat in zip(inputs, self._chats, strict=True)
        ]
        return {**super()._generate_and_score_completions(records), "media": self._media}

    def log(self, *args, **kwargs) -> None:
        for i, messages in enumerate(self._logs["prompt"]):  # TRL writes them to a table, and knows only images
            self._logs["prompt"][i] = [_without_media(message) for message in messages]
        super().log(*args, **kwargs)

    def _tokenize_prompts(self, prompts: list) -> tuple:
        ids, _, inputs = super()._tokenize_prompts(prompts)
        self._media, starts = [], Counter()
        for chat in self._chats:
            own = {}
            for name, settings in self.processing_class.modalities.items():
                end = starts[name] + len(chat.media.get(name, ()))
                own |= take_media(name, settings, inputs, range(starts[name], end))
                starts[name] = end
            self._media.append(own)
        return ids, None, inputs

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args, **kwargs) -> Any:
        self._media = inputs["media"]
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _get_per_token_logps_and_entropies(self, model: Any, *args, **kwargs) -> tuple:
        return super()._get_per_token_logps_and_entropies(_given(model, self._media), *args, **kwargs)


def _given(model: Callable[..., Any], media: list[dict[str, torch.Tensor]]) -> Callable[..., Any]:
    """The model, called on rows in their order, with the media of these rows."""
    left = iter(media)

    def run(input_ids: torch.Tensor, **inputs: Any) -> Any:
        rows = [next(left) for _ in input_ids]
        joined = {name: torch.cat([row[name] for row in rows]).to(input_ids.device) for name in rows[0]}
        return model(input_ids=input_ids, **inputs, **{name: values for name, values in joined.items() if len(values)})

    return run
