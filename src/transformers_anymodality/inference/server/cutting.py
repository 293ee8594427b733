"""Answers without the strings that end them, as in OpenAI's API."""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any

from ..conversation import GrowingAnswer


def stops_of(processor: Any, gen_config: Any) -> list[str]:
    """The stop strings of the system and of the request."""
    return [*processor.text_settings.get("stop", ()), *(gen_config.stop_strings or ())]


class CutQueue:
    """The part of a queue that stock handlers use: pieces of text, None at the end, and other items of a stream."""

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
        if type(item) is str:  # reasoning is a subclass of str
            self.ready += filter(None, [self.answer.add(item)])
        else:  # the end, a call, an error: held text must come before it
            self.ready += [*filter(None, [self.answer.add("", last=True)]), item]
