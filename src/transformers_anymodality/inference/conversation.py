"""Conversations of several turns on one cache: each turn encodes only its new tokens."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TextStreamer

from ..model.media_encoding import cache_of
from ..processing.processor import until_stop
from ..utils.upstream import CACHE_NAME


class Conversation:
    """A chat with a model.

    Args:
        model, processor: of one checkpoint.
        system_prompt: the chat's system prompt.
        access: `allow_urls` and `limits` of the media, as in the processor.
        generation: arguments of `generate`.

    Attributes:
        messages: the chat so far.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        system_prompt: str | None = None,
        access: dict[str, Any] | None = None,
        **generation,
    ):
        self.model, self.processor = model, processor
        self.access, self.generation = access or {}, generation
        self._start = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
        self.reset()

    def reset(self) -> None:
        """Forgets everything but the system prompt."""
        self.messages = list(self._start)
        self._forget()

    def count_tokens(self, part: dict[str, Any]) -> int:
        """Language-model tokens that a medium needs; raises MediaError if it cannot be read."""
        media = self.processor.media_of([{"role": "user", "content": [part]}])
        _, counts = self.processor.process_media(media, **self.access)
        return sum(sum(found) for found in counts.values())

    def say(self, content: str | list[dict[str, Any]], on_text: Callable[[str], None] = lambda text: None) -> str:
        """Says something, and returns the answer.

        Args:
            content: text, or content parts with any media.
            on_text: is called with each piece of the answer as it comes.

        Raises:
            ValueError, OSError: a medium cannot be read, or the conversation is too long for the model. The message is
                then not added to the conversation. An answer that a KeyboardInterrupt ends is added.
        """
        messages = [*self.messages, {"role": "user", "content": content}]
        turn = self._turn(messages)
        streamer = _Streamer(self.processor, on_text)
        cache = self._cache
        self._forget()  # a failure inside a layer leaves an incomplete cache
        try:
            ids = self._generate(turn, cache, streamer)
            answer = self.processor.decode(ids, skip_special_tokens=True).strip()
        except KeyboardInterrupt:
            answer = streamer.text.strip()
        self.messages = [*messages, {"role": "assistant", "content": answer}]
        return answer

    def _forget(self) -> None:
        self._cache: Any = None
        self._cached: list[int] = []  # the ids that the cache holds
        self._counts: dict[str, list[int]] = {}  # tokens of each medium among them

    def _turn(self, messages: list[dict[str, Any]]) -> "_Turn":
        """The model inputs that are not in the cache yet."""
        new = messages if self._cache is None else messages[len(self.messages) :]
        features, added = self.processor.process_media(self.processor.media_of(new), **self.access)
        counts = {name: self._counts.get(name, []) + added.get(name, []) for name in self.processor.modalities}
        prompt = self.processor.tokenize_chat(messages, add_generation_prompt=True)
        self.processor.prompt_tokenizer.place_media([prompt], counts)
        ids = prompt.expanded().ids.tolist()
        longest = context_length(self.model.config)
        if longest is not None and len(ids) >= longest:
            raise ValueError(
                f"The conversation has {len(ids)} tokens, but the model reads {longest}: start a new conversation."
            )
        past, placeholders = self._keep(ids), set(self.model.config.placeholder_ids)
        needed = sum(getattr(count, "placeholders", count) for found in added.values() for count in found)
        if past is None or sum(token in placeholders for token in ids[past:]) != needed:
            self._forget()  # the template now writes earlier turns differently, or the cache cannot be cut
            return self._turn(messages)
        return _Turn(ids, past, features, counts)

    def _keep(self, ids: list[int]) -> int | None:
        """Cuts the cache to its common beginning with `ids`, and returns its length; None if it cannot be cut."""
        past = min(len(os.path.commonprefix([ids, self._cached])), len(ids) - 1)
        if self._cache is not None and past < len(self._cached):
            try:
                self._cache.crop(past - len(self._cached))
            except RuntimeError:  # a sliding window has moved on
                return None
            self._cached = self._cached[:past]
            if (unseen := getattr(self._cache, "unseen_places", None)) is not None:
                self._cache.unseen_places = unseen[:, :past]
        return past

    def _generate(self, turn: "_Turn", cache: Any, streamer: "_Streamer") -> list[int]:
        """The answer's ids."""
        device = self.model.device
        with torch.no_grad():
            output = self.model.generate(
                input_ids=torch.tensor([turn.ids[turn.past :]], device=device),
                attention_mask=torch.ones(1, len(turn.ids), dtype=torch.long, device=device),
                **{name: value.to(device) for name, value in turn.features.items()},
                **{CACHE_NAME: cache},
                streamer=streamer,
                return_dict_in_generate=True,
                **{"num_beams": 1, **self.generation},
            )
        answer = output.sequences[0, len(turn.ids) - turn.past :].tolist()
        cache = cache_of(output)
        if cache is not None and not self.model._is_stateful:  # recurrent states continue only token by token
            self._cache, self._counts = cache, turn.counts
            self._cached = [*turn.ids, *answer][: cache.get_seq_length()]
        return answer


@dataclass
class _Turn:
    ids: list[int]  # of the full conversation
    past: int  # how many of them are in the cache
    features: dict[str, torch.Tensor]  # model inputs of the media after these
    counts: dict[str, list[int]]  # modality -> tokens of each medium of the full conversation


class GrowingAnswer:
    """Streams an answer up to the first stop string.

    Args:
        stops: the stop strings.

    Attributes:
        text: the answer so far.
    """

    def __init__(self, stops: Iterable[str]):
        self.stops, self.text, self._all, self._given = tuple(stops), "", "", 0

    def add(self, piece: str, last: bool = False) -> str:
        """The text to show now. A possible beginning of a stop string waits for the next piece, or for the last."""
        self._all += piece
        self.text = until_stop(self._all, self.stops)
        known = self.text if last else self.text[: len(self.text) - self._pending()]
        new = known[self._given :]
        self._given += len(new)
        return new

    def _pending(self) -> int:
        begins = (length for stop in self.stops for length in range(1, len(stop)) if self.text.endswith(stop[:length]))
        return max(begins, default=0)


class _Streamer(TextStreamer):
    """Streams an answer up to the first stop string (`text_settings["stop"]`)."""

    def __init__(self, processor: Any, on_text: Callable[[str], None]):
        super().__init__(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.answer, self.on_text = GrowingAnswer(processor.text_settings.get("stop", ())), on_text

    @property
    def text(self) -> str:
        return self.answer.text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if new := self.answer.add(text if self.text else text.lstrip(), stream_end):
            self.on_text(new)


def context_length(config: Any) -> int | None:
    """The context length in the model's config, or None."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)
