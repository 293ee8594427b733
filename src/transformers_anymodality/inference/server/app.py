"""Transformers' server around one model: its handlers and routes, with requests that are checked before they run."""

import asyncio
import inspect
import logging
import socket
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from transformers import ProcessorMixin

from ...processing.processor import until_stop
from ...utils.upstream import template_variables
from ...utils.upstream_serving import (
    NO_HANDLERS,
    TAKES_TOOLS,
    BaseHandler,
    ChatCompletionHandler,
    GenerateManager,
    GenerationState,
    ResponseHandler,
    build_server,
)
from .. import LOOPBACK_HOSTS
from ..conversation import GrowingAnswer, context_length
from .requests import Policy, check_options, check_variables, read_messages


logger = logging.getLogger(__name__)

# Of the stock routes, those that need nothing but this model; others load any model, or unload this one.
ROUTES = ("/v1/chat/completions", "/v1/responses", "/v1/models", "/health")
PREPARE_SECONDS = 120.0
_THROWN_AWAY = 8  # times the size of the largest request


class _Served:
    """The one model there is; in the place of the stock manager of models."""

    def __init__(self, model: Any, processor: Any, name: str, policy: Policy):
        self.model, self.processor, self.name, self.policy = model, processor, name, policy
        self.created = int(time.time())
        self.longest_prompt = context_length(model.config) or policy.max_prompt_tokens
        # One at a time: media being decoded take the memory of one request, and no tokenizer is in two threads.
        self.preparing = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        # What the chat template reads besides the chat: `enable_thinking` and the like.
        arguments = {*inspect.signature(ProcessorMixin.apply_chat_template).parameters}
        own = {"messages", "media_tokens", "raise_exception", "strftime_now", *processor.tokenizer.special_tokens_map}
        self.variables = template_variables(processor.resolve_chat_template()) - arguments - own

    def prepare(self, messages: Any, tools: Any, variables: Any) -> dict[str, Any]:
        """Model inputs; ValueError for a chat or a medium that cannot be read."""
        policy = self.policy
        inputs = self.processor.apply_chat_template(
            read_messages(messages, self.processor.modalities, policy),
            add_generation_prompt=True,
            tools=tools,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"limits": policy.limits, "allow_urls": policy.allow_urls},
            **check_variables(variables, self.variables),
        )
        length, longest = inputs["input_ids"].shape[1], self.longest_prompt
        if length >= longest:
            raise ValueError(f"The prompt has {length} tokens; the model reads fewer than {longest} beside an answer.")
        return inputs.to(self.model.device)

    def list_models(self) -> list[dict[str, Any]]:
        return [{"id": self.name, "object": "model", "created": self.created, "owned_by": "anymodality"}]

    get_gen_models = list_models  # its name before 5.24

    def shutdown(self) -> None:
        self.preparing.shutdown(wait=False, cancel_futures=True)


class _CheckedHandler(BaseHandler):
    """What both kinds of chat share: a request is checked, prepared outside the event loop, and then generated from by
    the stock handler."""

    model_manager: Any

    async def handle_request(self, body: dict, request_id: str):
        served = self.model_manager
        self._validate_request(body)
        model_id, model, processor = self._resolve_model(body)
        config = self._build_generation_config(body, model.generation_config)
        if body.get("stream") and not processor.tokenizer.is_fast:
            raise ValueError("This model's tokenizer cannot stream: leave `stream` out.")
        messages, tools, rest = self._read(body)
        inputs = await self._prepare(messages, tools, body.get("chat_template_kwargs"))
        room = served.longest_prompt - inputs["input_ids"].shape[1]
        config.max_new_tokens = min(config.max_new_tokens, served.policy.max_new_tokens, room)
        manager = self.generation_state.get_manager(model_id)
        arguments = (request_id, model, processor, model_id, *rest, inputs, config)
        known = {"gen_manager": manager, **({"tools": tools} if TAKES_TOOLS else {})}
        if body.get("stream"):
            return self._streaming(*arguments, **known)
        return await self._non_streaming(*arguments, **known)

    async def _prepare(self, *request: Any) -> dict[str, Any]:
        loop, served = asyncio.get_running_loop(), self.model_manager
        try:
            return await asyncio.wait_for(
                loop.run_in_executor(served.preparing, served.prepare, *request), PREPARE_SECONDS
            )
        except TimeoutError as error:
            raise HTTPException(503, "Reading the request took too long; try again later, or send less.") from error
        except Exception as error:  # all that was run read the request, so it is the request's fault
            logger.info("A request cannot be read.", exc_info=True)
            raise HTTPException(400, str(error) or type(error).__name__) from error

    def _resolve_model(self, body: dict):
        served = self.model_manager
        if body.get("model") not in (None, served.name):
            raise HTTPException(404, f"There is no model {body['model']!r:.100} here, but {served.name!r}.")
        return served.name, served.model, served.processor

    def _build_generation_config(self, body: dict, model_generation_config: Any, use_cb: bool = False):
        check_options(body, self.model_manager.model.config.get_text_config().vocab_size)
        config = super()._build_generation_config(body, model_generation_config, use_cb=use_cb)
        config.do_sample = body["temperature"] > 0 if body.get("temperature") is not None else config.do_sample
        config.num_beams = 1
        own, asked = model_generation_config.stop_strings or [], body.get("stop") or []
        config.stop_strings = [*own, *([asked] if isinstance(asked, str) else asked)] or None
        config.sequence_bias = config.sequence_bias or None
        return config


class _ChatHandler(_CheckedHandler, ChatCompletionHandler):
    def _read(self, body: dict) -> tuple[Any, Any, tuple]:
        """Messages, tools, and what else the stock handler wants of the request."""
        return body.get("messages"), body.get("tools"), ()


class _ResponseHandler(_CheckedHandler, ResponseHandler):
    def _read(self, body: dict) -> tuple[Any, Any, tuple]:
        try:
            return self._normalize_input(body), self._normalize_tools(body.get("tools")), (body,)
        except (KeyError, TypeError, AttributeError) as error:
            raise HTTPException(400, f"`input` is neither text nor a list of messages ({error!r:.100}).") from error


# --- answers without the strings that end them, as OpenAI's API has it -----------------------------------------------


class _CutManager(GenerateManager):
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


# --- the application -------------------------------------------------------------------------------------------------


class _BodyLimit:
    """Refuses bodies of more than `max_bytes`."""

    def __init__(self, app: Any, max_bytes: int):
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        seen = 0

        async def counted() -> dict:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen <= self.max_bytes:
                return message
            # A client reads no answer while it sends: what still comes is thrown away, up to a point.
            while message.get("more_body") and seen < _THROWN_AWAY * self.max_bytes:
                message = await receive()
                seen += len(message.get("body", b""))
            raise ValueError("too large")

        async def answered(message: dict) -> None:
            if seen <= self.max_bytes:
                await send(message)

        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        await self.app(scope, counted, answered)
        if seen > self.max_bytes:  # whatever the application made of a body that broke off
            await _error(413, f"The request is larger than the limit of {self.max_bytes} bytes.")(scope, receive, send)


def _error(status: int, message: str) -> JSONResponse:
    """An error in the form that OpenAI's clients read."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": None}}, status)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    match error:
        case StarletteHTTPException():
            return _error(error.status_code, str(error.detail))
        case RequestValidationError():
            return _error(400, "The body must be a JSON object, sent as application/json.")
        case ValueError():
            return _error(400, str(error))
    return _error(500, "The server failed to answer; its log says why.")


def build_app(model: Any, processor: Any, name: str, policy: Policy | None = None, hosts: list[str] | None = None):
    """The ASGI application.

    Args:
        model, processor: of one checkpoint.
        name: of the model in requests.
        policy: what requests may ask for.
        hosts: names under which clients reach the server; those of the machine itself if left out, so that no web page
            reaches it by a name of its own. `["*"]`: any.
    """
    served = _Served(model, processor, name, policy or Policy())
    state = GenerationState()
    state._generate_managers[name] = _CutManager()
    handlers = {"chat_handler": _ChatHandler(served, state), "response_handler": _ResponseHandler(served, state)}
    app: FastAPI = build_server(served, generation_state=state, **{**NO_HANDLERS, **handlers})  # type: ignore[arg-type]
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", None) in ROUTES]
    app.add_middleware(_BodyLimit, max_bytes=served.policy.limits.max_bytes * 3 // 2)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts or list(LOOPBACK_HOSTS))

    for kind in (StarletteHTTPException, RequestValidationError, ValueError, Exception):
        app.add_exception_handler(kind, _refused)
    return app


def run_app(app: FastAPI, host: str, port: int, max_requests: int, started: Any = None) -> None:
    """Serves until interrupted.

    Args:
        port: 0 takes a free one.
        max_requests: at once; more are answered by 503.
        started: is called with the address when the port is there.

    Raises:
        OSError: the address is taken, or is not one.
    """
    family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.create_server((host, port), family=family)
    port = listener.getsockname()[1]
    if started is not None:
        started(f"http://{f'[{host}]' if family == socket.AF_INET6 else host}:{port}/v1")
    config = uvicorn.Config(app, log_level="warning", limit_concurrency=max_requests, timeout_keep_alive=30)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])
