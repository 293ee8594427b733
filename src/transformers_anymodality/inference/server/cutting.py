"""Answers without the strings that end them, as OpenAI's API has it."""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any

from ..conversation import GrowingAnswer


def stops_of(processor: Any, gen_config: Any) -> list[str]:
    """What ends an answer: for the system, or for the request."""
    return [*processor.text_settings.get("stop", ()), *(gen_config.stop_strings or ())]


class CutQueue:
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
