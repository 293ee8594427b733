"""Waiting requests are answered together: rows of one `generate`, padded on the left.

Each row ends at its own length or stop, and is answered at once. A row whose client has left ends, too. If rows fail
together, because of memory or of one of them, they are tried again in halves.
"""

import asyncio
import copy
import gc
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from ...processing.processor import until_stop
from ...utils.upstream_serving import DirectStreamer, GenerateManager, GenerationCancelled, StreamError
from .cutting import CutQueue, stops_of
from .metrics import Metrics


logger = logging.getLogger(__name__)

# Set when the client of the current request has left.
GONE: ContextVar[threading.Event] = ContextVar("gone")

_MOST_ROWS = 32
_MOST_TOKENS = 65_536  # of all rows, with padding and answers: the largest size of their cache
_GATHER_SECONDS = 0.01  # requests that were sent together arrive one after another
_MOST_GATHER_SECONDS = 0.2  # while requests are being read
_TAIL = 96  # last tokens whose text is searched for a new stop
# Settings that look at the full row, with padding: such rows are batched only with rows of equal length.
_LOOK_BACK = (
    "repetition_penalty",
    "encoder_repetition_penalty",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "min_length",
)
_UNSET = (None, 0, 1.0)
# Model inputs per token, which `generate` itself lengthens; all others belong to media.
_OF_TOKENS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
FAILED = "The server failed to answer; its log says why."


class TooLargeError(Exception):
    """A request does not fit into memory, not even alone."""


class Row:
    """A request that waits or is being answered.

    Args:
        inputs: model inputs of one prompt.
        config: its generation config, with `seed` if one is given.
        stops: strings that end the answer.
        streamer: gets each token as it comes.
        metrics: count tokens and errors.
    """

    def __init__(
        self, inputs: dict[str, Any], config: Any, stops: list[str], tokenizer: Any, streamer: Any, metrics: Metrics
    ):
        self.inputs, self.stops, self.tokenizer, self.streamer = inputs, stops, tokenizer, streamer
        self.metrics, self.ended = metrics, False
        self.gone = GONE.get(None) or threading.Event()
        self.ids: list[int] = []
        self.length, self.most = inputs["input_ids"].shape[1], config.max_new_tokens
        self.config, self.seed = config, config.__dict__.pop("seed", None)
        self.config.stop_strings = None  # stock ones support only some tokenizers, and apply to all rows
        eos = config.eos_token_id
        self.ends = {*eos} if isinstance(eos, (list, tuple)) else {eos}
        self.loop = asyncio.get_running_loop()
        self.answered: asyncio.Future[list[int]] = self.loop.create_future()
        settings = {name: value for name, value in config.to_dict().items() if name != "max_new_tokens"}
        looks_back = any(settings.get(name) not in _UNSET for name in _LOOK_BACK)
        alone = id(self) if config.do_sample and self.seed is not None else None
        # Rows of one kind can be answered together.
        self.kind = (repr(sorted(settings.items())), self.length if looks_back else None, alone)

    def begin(self) -> bool:
        """Whether a client still waits for it."""
        try:
            if self.streamer is not None:
                self.streamer.put(None)  # the first call is for the prompt
        except GenerationCancelled:
            return False
        return not self.gone.is_set()

    def rest(self) -> dict[str, Any]:
        """Model inputs to continue the answer: the prompt, then the answer so far."""
        inputs = {**self.inputs}
        for name in inputs.keys() & {*_OF_TOKENS}:  # new tokens have the mask and the type of the last one
            inputs[name] = torch.cat([inputs[name], inputs[name][:, -1:].expand(-1, len(self.ids))], 1)
        inputs["input_ids"][0, self.length :] = torch.tensor(self.ids)
        return inputs

    def take(self, token: int) -> None:
        """Adds a token of the answer. An error ends only this row."""
        try:
            self.ids.append(token)
            self.metrics.generated_tokens.inc()
            if self.streamer is not None:
                self.streamer.put(torch.tensor([token]))
            if token in self.ends or len(self.ids) >= self.most or self.gone.is_set() or self._stops():
                self.end()
        except GenerationCancelled:
            self.end()
        except BaseException as error:  # a panic of a Rust tokenizer is not an Exception
            logger.exception("An answer cannot be decoded.")
            self.end(RuntimeError(repr(error)))

    def _stops(self) -> bool:
        if not self.stops:
            return False
        tail = self.tokenizer.decode(self.ids[-_TAIL:], skip_special_tokens=False)
        return any(stop in tail for stop in self.stops)

    def end(self, error: Exception | None = None) -> None:
        """Passes on the answer, or the error."""
        self.ended = True
        if error is not None:
            self.metrics.failed.inc()
        if self.streamer is None:
            self.loop.call_soon_threadsafe(self._answer, error)
        elif error is None:
            self.streamer.end()
        else:  # the stock handler puts it between quotes unchanged
            self.streamer._enqueue(StreamError(str(error) if isinstance(error, TooLargeError) else FAILED))

    def _answer(self, error: Exception | None) -> None:
        if not self.answered.done():
            self.answered.set_result(self.ids) if error is None else self.answered.set_exception(error)


class _Ends(StoppingCriteria):
    """Gives each row its token, and ends rows one by one."""

    def __init__(self, rows: list[Row]):
        self.rows = rows

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs) -> torch.Tensor:
        for row, token in zip(self.rows, input_ids[:, -1].tolist(), strict=True):
            if not row.ended:
                row.take(token)
        return torch.tensor([row.ended for row in self.rows], device=input_ids.device)


class BatchManager(GenerateManager):
    """Generates all waiting requests at once, on one thread, as the stock manager does.

    Args:
        most_tokens: the model's limit of tokens, answer included.
        metrics: count generated tokens.
    """

    def __init__(self, most_tokens: int, metrics: Metrics):
        super().__init__()
        self.most_tokens, self.metrics, self.waiting = most_tokens, metrics, deque[Row]()
        self.reading = 0  # requests
        metrics.waiting.set_function(lambda: len(self.waiting))

    def generate_streaming(self, model, processor, inputs, gen_config, request_id, response_parser=None):
        queue: asyncio.Queue = asyncio.Queue()
        loop, stops = asyncio.get_running_loop(), stops_of(processor, gen_config)
        streamer = DirectStreamer(processor.tokenizer._tokenizer, loop, queue, response_parser=response_parser)
        self._add(model, Row(inputs, gen_config, stops, processor.tokenizer, streamer, self.metrics))
        return CutQueue(queue, stops), streamer

    async def generate_non_streaming(self, model, processor, inputs, gen_config, request_id):
        stops = stops_of(processor, gen_config)
        row = Row(inputs, gen_config, stops, processor.tokenizer, None, self.metrics)
        self._add(model, row)
        try:
            ids = await row.answered
        finally:
            row.gone.set()
        text = until_stop(processor.decode(ids, skip_special_tokens=True), stops)
        return text, row.length, torch.tensor(ids)

    @contextmanager
    def expects_one(self) -> Iterator[None]:
        """While a request is being read. The next batch waits for it, but not long."""
        self.reading += 1
        try:
            yield
        finally:
            self.reading -= 1

    def _add(self, model: Any, row: Row) -> None:
        self.waiting.append(row)
        self.submit(self._generate, model)

    def _generate(self, model: Any) -> None:
        """One batch of the waiting rows; does nothing if an earlier batch took all."""
        if not self.waiting:
            return
        until = time.monotonic() + _MOST_GATHER_SECONDS
        while self.reading and time.monotonic() < until:
            time.sleep(_GATHER_SECONDS)
        time.sleep(_GATHER_SECONDS)  # until those that were read are added
        rows = []
        for row in self._next():
            rows.append(row) if row.begin() else row.end()
        self.metrics.prompt_tokens.inc(sum(row.length for row in rows))
        if rows:
            self._answer(model, rows)

    def _answer(self, model: Any, rows: list[Row]) -> None:
        """Answers rows together. If that fails, the remaining ones run in halves: rows may fit into memory separately, and
        the error of one row is not the others'."""
        error = self._run(model, rows)
        left = [row for row in rows if not row.ended]
        if error is None or len(rows) == 1:
            for row in left:  # without an error, the model's own config ended them, for example by `max_time`
                row.end(error)
            return
        gc.collect()  # frees the tensors of the failed run
        middle = (len(left) + 1) // 2
        for half in filter(None, (left[:middle], left[middle:])):
            self._answer(model, half)

    def _run(self, model: Any, rows: list[Row]) -> Exception | None:
        """The error, without its traceback, which holds the tensors of the failed run."""
        config = copy.deepcopy(rows[0].config)
        config.max_new_tokens = max(row.most - len(row.ids) for row in rows)
        if config.do_sample and rows[0].seed is not None:
            torch.manual_seed(rows[0].seed)
        try:
            inputs = together([row.rest() for row in rows])
            model.generate(
                **{name: value.to(model.device) for name, value in inputs.items()},
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([_Ends(rows)]),
            )
        except Exception as error:
            logger.exception("%d requests cannot be answered%s.", len(rows), " together" if len(rows) > 1 else "")
            if _is_of_memory(error):
                return TooLargeError("The request does not fit into the server's memory: send less, or fewer media.")
            error.__traceback__ = error.__context__ = error.__cause__ = None
            return error
        return None

    def _next(self) -> list[Row]:
        """The row that has waited longest, and others that fit into its batch."""
        rows = [self.waiting.popleft()]
        for row in [*self.waiting]:
            length, most = (max(getattr(one, name) for one in (*rows, row)) for name in ("length", "most"))
            fits = length + most <= self.most_tokens and (len(rows) + 1) * (length + most) <= _MOST_TOKENS
            if len(rows) < _MOST_ROWS and fits and row.kind == rows[0].kind and _alike(row.inputs, rows):
                self.waiting.remove(row)
                rows.append(row)
        return rows


def _is_of_memory(error: Exception) -> bool:
    """Whether memory ran out: allocators of torch's devices share no error class."""
    words = ("out of memory", "allocate memory", "not enough memory")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(word in str(error) for word in words)


def _alike(inputs: dict[str, Any], rows: list[Row]) -> bool:
    """Whether media have the same size as those of rows; rows may have different modalities."""
    media = {name: value.shape[1:] for name, value in inputs.items() if name not in _OF_TOKENS}
    return all(
        row.inputs[name].shape[1:] == shape for row in rows for name, shape in media.items() if name in row.inputs
    )


def together(inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Model inputs of several prompts joined to one batch: text padded on the left, media in the order of rows."""
    longest = max(one["input_ids"].shape[1] for one in inputs)
    joined = {}
    for name in dict.fromkeys(name for one in inputs for name in one):
        values = [one[name] for one in inputs if name in one]
        if name in _OF_TOKENS:  # padding is masked, so its id does not matter
            values = [torch.nn.functional.pad(value, (longest - value.shape[1], 0)) for value in values]
        joined[name] = torch.cat(values)
    return joined
