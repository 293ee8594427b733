"""Answers of the stock server without the strings that end them, as OpenAI's API has it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any

from ...processing.processor import until_stop
from ...utils.upstream_serving import GenerateManager, GenerationState
from ..conversation import GrowingAnswer


class CutState(GenerationState):
    """Generates by `CutManager`."""

    def get_manager(self, model_id: str, use_cb: bool = False):
        if model_id not in self._generate_managers:  # each has a thread of its own
            self._generate_managers[model_id] = CutManager()
        return self._generate_managers[model_id]


class CutManager(GenerateManager):
    """Generates as the stock one does, and hands answers on up to what ends them: for the system, or for the request."""

    def generate_streaming(self, model, processor, inputs, gen_config, request_id, response_parser=None):
        queue, streamer = super().generate_streaming(model, processor, inputs, gen_config, request_id, response_parser)
        return _CutQueue(queue, _stops(processor, gen_config)), streamer

    async def generate_non_streaming(self, model, processor, inputs, gen_config, request_id):
        text, *rest = await super().generate_non_streaming(model, processor, inputs, gen_config, request_id)
        return until_stop(text, _stops(processor, gen_config)), *rest


def _stops(processor: Any, gen_config: Any) -> list[str]:
    return [*processor.text_settings.get("stop", ()), *(gen_config.stop_strings or ())]


class _CutQueue:
    """What the stock handlers read of a queue: pieces of text, None at the end, and whatever else a stream has."""

    def __init__(self, queue: asyncio.Queue, stops: Iterable[str]):
        self.queue, self.answer, self.ready = queue, GrowingAnswer(stops), deque()

    async def get(self) -> Any:
        while not self.ready:
            self._take(await self.queue.get())
        return self.ready.popleft()

    def get_nowait(self) -> Any:
        while not self.ready:
            self._take(self.queue.get_nowait())
        return self.ready.popleft()

    def _take(self, item: Any) -> None:
        if type(item) is str:  # reasoning is a string, too, but of a kind of its own
            self.ready += filter(None, [self.answer.add(item)])
        else:  # the end, a call, an error: nothing is to come behind it that was said before
            self.ready += [*filter(None, [self.answer.add("", last=True)]), item]
