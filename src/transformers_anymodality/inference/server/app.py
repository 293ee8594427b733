"""Transformers' server around one model: its handlers and routes; requests are checked before they run."""

import asyncio
import inspect
import logging
import math
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from transformers import ProcessorMixin

from ...processing.chat import text_of
from ...utils.upstream import template_variables
from ...utils.upstream_serving import (
    NO_HANDLERS,
    TAKES_TOOLS,
    BaseHandler,
    ChatCompletionHandler,
    GenerationState,
    ResponseHandler,
    build_server,
    with_known_names,
)
from .. import LOOPBACK_HOSTS
from ..conversation import context_length
from .batching import FAILED, BatchManager, TooLargeError
from .gate import UNCOUNTED, Gate, TimedProtocol, error_response
from .metrics import PATH as METRICS
from .metrics import Counted, Metrics
from .reading import Reader
from .requests import Policy, check_options, check_read, check_variables, is_short_text, read_messages


logger = logging.getLogger(__name__)

# The stock routes that use only this model; others load any model, or unload this one.
ROUTES = ("/v1/chat/completions", "/v1/responses", "/v1/models", "/health")
PREPARE_SECONDS = 120.0  # limit for reading a request, including its wait for others
READ_SECONDS = 20.0  # limit for reading alone
_SPARE_BYTES = 512 * 1024**2  # memory besides media: code, tokens
_GRACE_SECONDS = 10  # time to finish answers when the server must end


class _Served:
    """The only model; it replaces the stock manager of models."""

    def __init__(self, model: Any, processor: Any, name: str, policy: Policy):
        self.model, self.processor, self.name, self.policy = model, processor, name, policy
        self.created = int(time.time())
        self.longest_prompt = context_length(model.config) or policy.max_prompt_tokens
        # No token covers more text, so a text that is too long is refused before it is tokenised.
        self.longest_token = max(map(len, processor.tokenizer.get_vocab()))
        self.short = ThreadPoolExecutor(1, thread_name_prefix="read")  # tokenizers are not thread-safe
        # Other variables of the chat template: `enable_thinking` and the like.
        arguments = {*inspect.signature(ProcessorMixin.apply_chat_template).parameters}
        own = {"messages", "media_tokens", "raise_exception", "strftime_now", *processor.tokenizer.special_tokens_map}
        self.variables = template_variables(processor.resolve_chat_template()) - arguments - own
        # Values exist as decoded numbers, as floats, and as the model's inputs.
        self.reader = Reader(self.read, READ_SECONDS, _SPARE_BYTES + 4 * policy.limits.max_bytes)

    async def prepare(self, *request: Any) -> dict[str, Any]:
        """As `read`, but a request cannot block others."""
        if is_short_text(*request):
            return await asyncio.get_running_loop().run_in_executor(self.short, self.read, *request)
        return await self.reader.read(*request)

    def read(self, messages: Any, tools: Any, variables: Any) -> dict[str, Any]:
        """Model inputs; ValueError for a chat or a medium that cannot be read."""
        policy, chat = self.policy, read_messages(messages, self.processor.modalities, self.policy)
        self._check_length("at least ", math.ceil(sum(len(text_of(message)) for message in chat) / self.longest_token))
        inputs = self.processor.apply_chat_template(
            chat,
            add_generation_prompt=True,
            tools=tools,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"limits": policy.limits, "allow_urls": policy.allow_urls},
            **check_variables(variables, self.variables),
        )
        self._check_length("", inputs["input_ids"].shape[1])
        return {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}

    def _check_length(self, how: str, length: int) -> None:
        if length >= (longest := self.longest_prompt):
            raise ValueError(
                f"The prompt has {how}{length} tokens; it must have fewer than {longest} to leave room for an answer."
            )

    def list_models(self) -> list[dict[str, Any]]:
        return [{"id": self.name, "object": "model", "created": self.created, "owned_by": "anymodality"}]

    get_gen_models = list_models  # its name before 5.24

    def shutdown(self) -> None:
        self.short.shutdown(wait=False, cancel_futures=True)
        self.reader.close()


class _CheckedHandler(BaseHandler):
    """What both kinds of chat share: a request is checked and prepared outside the event loop; then the stock handler
    generates."""

    model_manager: Any

    async def handle_request(self, body: dict, request_id: str):
        served = self.model_manager
        body = with_known_names(body, self._unused_fields)
        self._validate_request(body)
        check_read(body, self._unused_fields)
        model_id, model, processor = self._resolve_model(body)
        config = self._build_generation_config(body, model.generation_config)
        if body.get("stream") and not processor.tokenizer.is_fast:
            raise ValueError("This model's tokenizer cannot stream: leave `stream` out.")
        messages, tools, rest = self._read(body)
        manager = self.generation_state.get_manager(model_id)
        with manager.expects_one():
            inputs = await self._prepare(messages, tools, body.get("chat_template_kwargs"))
        room = served.longest_prompt - inputs["input_ids"].shape[1]
        config.max_new_tokens = min(config.max_new_tokens, served.policy.max_new_tokens, room)
        arguments = (request_id, model, processor, model_id, *rest, inputs, config)
        known = {"gen_manager": manager, **({"tools": tools} if TAKES_TOOLS else {})}
        if body.get("stream"):
            return self._streaming(*arguments, **known)
        return await self._non_streaming(*arguments, **known)

    async def _prepare(self, *request: Any) -> dict[str, Any]:
        try:
            async with asyncio.timeout(PREPARE_SECONDS):
                return await self.model_manager.prepare(*request)
        except TimeoutError as error:
            raise HTTPException(503, "The server is busy with other requests: try again in a moment.") from error
        except (OSError, EOFError) as error:
            logger.error("No process can be started to read a request: is there enough memory?", exc_info=True)
            raise HTTPException(503, "The server cannot read requests now: try again in a moment.") from error
        except Exception as error:  # only the request was read, so the request is at fault
            logger.info("A request cannot be read.", exc_info=True)
            raise HTTPException(400, str(error) or type(error).__name__) from error

    def _resolve_model(self, body: dict):
        served = self.model_manager
        if body.get("model") not in (None, served.name):
            raise HTTPException(404, f"The model {body['model']!r:.100} is not served here: ask for {served.name!r}.")
        return served.name, served.model, served.processor

    def _build_generation_config(self, body: dict, model_generation_config: Any, use_cb: bool = False):
        check_options(body, self.model_manager.model.config.get_text_config().vocab_size)
        config = super()._build_generation_config({**body, "seed": None}, model_generation_config, use_cb=use_cb)
        config.seed = body.get("seed")  # it is set when the answer is generated
        config.do_sample = body["temperature"] > 0 if body.get("temperature") is not None else config.do_sample
        config.num_beams = 1
        own, asked = model_generation_config.stop_strings or [], body.get("stop") or []
        config.stop_strings = [*own, *([asked] if isinstance(asked, str) else asked)] or None
        config.sequence_bias = config.sequence_bias or None
        return config


class _ChatHandler(_CheckedHandler, ChatCompletionHandler):
    def _read(self, body: dict) -> tuple[Any, Any, tuple]:
        """Messages, tools, and further arguments of the stock handler."""
        return body.get("messages"), body.get("tools"), ()


class _ResponseHandler(_CheckedHandler, ResponseHandler):
    def _read(self, body: dict) -> tuple[Any, Any, tuple]:
        try:
            return self._normalize_input(body), self._normalize_tools(body.get("tools")), (body,)
        except (KeyError, TypeError, AttributeError) as error:
            raise HTTPException(400, f"`input` is neither text nor a list of messages ({error!r:.100}).") from error


# --- the application -------------------------------------------------------------------------------------------------


async def _refused(request: Request, error: Exception) -> JSONResponse:
    match error:
        case StarletteHTTPException(status_code=404, detail="Not Found"):
            return error_response(
                404, f"There is no {request.url.path:.100} here, but {', '.join((*ROUTES, METRICS))}."
            )
        case StarletteHTTPException():
            return error_response(error.status_code, str(error.detail))
        case RequestValidationError():
            return error_response(400, "The body must be a JSON object, sent as application/json.")
        case TooLargeError():
            return error_response(413, str(error))
        case ValueError():
            return error_response(400, str(error))
    return error_response(500, FAILED)


def build_app(
    model: Any,
    processor: Any,
    name: str,
    policy: Policy | None = None,
    hosts: list[str] | None = None,
    api_key: str | None = None,
    origins: Sequence[str] = (),
) -> FastAPI:
    """The ASGI application.

    Args:
        model, processor: of one checkpoint.
        name: name of the model in requests.
        policy: what requests may ask for.
        hosts: host names under which clients reach the server; the machine's own names if left out, so that a web page
            cannot reach it under another name. `["*"]`: any.
        api_key: key that requests must have; none if left out.
        origins: origins of web pages whose scripts may reach the server (`https://example.org`); `["*"]`: any.
    """
    served = _Served(model, processor, name, policy or Policy())
    state, metrics = GenerationState(), Metrics()
    state._generate_managers[name] = BatchManager(served.longest_prompt, metrics)
    handlers = {"chat_handler": _ChatHandler(served, state), "response_handler": _ResponseHandler(served, state)}
    app: FastAPI = build_server(served, generation_state=state, **{**NO_HANDLERS, **handlers})  # type: ignore[arg-type]
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", None) in ROUTES]
    app.add_api_route(METRICS, metrics.page)
    most = {"max_bytes": served.policy.limits.max_bytes * 3 // 2, "max_requests": served.policy.max_requests}
    app.add_middleware(Gate, **most, api_key=api_key)
    app.add_middleware(Counted, metrics=metrics, routes=ROUTES, passed_over=UNCOUNTED)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts or list(LOOPBACK_HOSTS))
    if origins:
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])

    for kind in (StarletteHTTPException, RequestValidationError, TooLargeError, ValueError, Exception):
        app.add_exception_handler(kind, _refused)
    return app


def run_app(app: FastAPI, host: str, port: int, started: Any = None) -> None:
    """Serves until interrupted or ended by SIGTERM; then running answers have some seconds to finish.

    Args:
        port: 0 chooses a free one.
        started: called with the address when the port is open.

    Raises:
        OSError: the address is in use, or is not valid.
    """
    family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.create_server((host, port), family=family)
    port = listener.getsockname()[1]
    if started is not None:
        started(f"http://{f'[{host}]' if family == socket.AF_INET6 else host}:{port}/v1")
    config = uvicorn.Config(
        app,
        log_level="warning",
        http=TimedProtocol,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])
