"""One visitor's chat: attached media, shown turns, and answers as they come."""

import base64
import html
import logging
import queue
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...data.figures import figure
from ...modalities import UPLOAD_LIMITS, Limits
from ...modalities._source import describe
from ...processing.chat import part_source
from ..conversation import Conversation
from .running import keep


logger = logging.getLogger(__name__)

_INLINE = 20_000  # characters of a data: URI that stay within the page
_URI = re.compile(r"src='data:([\w/+.-]+);base64,([^']*)'")


@dataclass(frozen=True)
class Policy:
    """What visitors may do.

    Attributes:
        limits: limits of each medium.
        max_media: media per message.
        max_new_tokens: length limit of an answer.
    """

    limits: Limits = UPLOAD_LIMITS
    max_media: int = 8
    max_new_tokens: int = 1024


@dataclass
class Host:
    """What all visitors share: a checkpoint, a policy, and the system prompt."""

    model: Any
    processor: Any
    policy: Policy = Policy()
    system_prompt: str | None = None
    # Held while the model answers, one visitor at a time.
    answering: threading.Lock = field(default_factory=threading.Lock)


class Session:
    """
    Attributes:
        media: content parts and their previews as HTML, attached to the next message.
        shown: turns so far.
    """

    def __init__(self, host: Host):
        self.host = host
        access = {"limits": host.policy.limits}
        self.conversation = Conversation(host.model, host.processor, host.system_prompt, access)
        self.media: list[tuple[dict[str, Any], str]] = []
        self.shown: list[Turn] = []
        self._stopped = threading.Event()

    def attach(self, part: dict[str, Any]) -> None:
        """Attaches a medium; raises ValueError, with a message for the visitor, if it cannot be read."""
        if len(self.media) >= self.host.policy.max_media:
            raise ValueError(f"One message holds at most {self.host.policy.max_media} media: send these first.")
        try:
            self.conversation.count_tokens(part)
            picture = self._picture(part)
        except Exception as error:  # only the file was read, so the file is at fault
            logger.info("A file cannot be read.", exc_info=True)
            raise ValueError(_message(error, [part])) from error
        self.media.append((part, picture))

    def say(self, text: str, **generation) -> Iterator[None]:
        """Sends a message with the attached media; after each step, `shown` has more of the answer."""
        media, self.media = self.media, []
        parts = [part for part, _ in media]
        turn = Turn(text, "".join(picture for _, picture in media))
        self.shown.append(turn)
        content = [*parts, *([{"type": "text", "text": text}] if text else [])]
        words: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._stopped.clear()
        thread = threading.Thread(target=self._answer, args=(turn, content, generation, words), daemon=True)
        thread.start()
        try:
            yield
            while (piece := words.get()) is not None:
                turn.answer += piece
                yield
        finally:  # also when the visitor has gone
            self._stopped.set()
            thread.join()
        yield

    def stop(self) -> None:
        """Stops the current answer; its text so far stays."""
        self._stopped.set()

    def _answer(self, turn: "Turn", content: list[dict], generation: dict[str, Any], words: queue.SimpleQueue) -> None:
        def on_text(piece: str) -> None:
            if self._stopped.is_set():
                raise KeyboardInterrupt  # ends an answer in a conversation
            words.put(piece)

        lock = self.host.answering
        while not lock.acquire(timeout=0.2):
            if self._stopped.is_set():
                turn.error = "Stopped before the model began to answer."
                return words.put(None)
        try:
            self.conversation.generation = generation
            turn.final = self.conversation.say(content, on_text)
        except Exception as error:
            logger.warning("A message cannot be answered.", exc_info=True)
            turn.error = _message(error, content)
        finally:
            lock.release()
            words.put(None)

    def _picture(self, part: dict[str, Any]) -> str:
        """A medium as the model gets it, with a caption."""
        modality = part["type"]
        source = part_source(modality, part)
        name = [source.name] if isinstance(source, Path) else []
        caption = " · ".join([modality, *name])
        return _URI.sub(self._kept, figure(modality, source, self.host.processor, caption))

    def _kept(self, found: re.Match) -> str:
        if len(found[2]) <= _INLINE:
            return found[0]
        return f"src='{html.escape(keep(base64.b64decode(found[2]), found[1]), quote=True)}'"


@dataclass
class Turn:
    text: str
    pictures: str  # HTML
    answer: str = ""  # so far
    final: str | None = None  # the complete answer
    error: str | None = None


def _message(error: Exception, parts: list[dict[str, Any]]) -> str:
    """The message of an error, with file names instead of paths, which visitors must not see."""
    text = str(error) or type(error).__name__
    for part in parts:
        if "path" in part:
            path = Path(part["path"])
            text = text.replace(describe(path), f"'{path.name}'").replace(str(path), path.name)
    return text
