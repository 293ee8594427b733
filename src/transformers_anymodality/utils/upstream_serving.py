"""As `upstream`, of Transformers' server: no page of its documentation names these, and each release changes some."""

import inspect
from collections.abc import Set
from typing import Any

from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.response import ResponseHandler
from transformers.cli.serving.server import build_server
from transformers.cli.serving.utils import BaseHandler, DirectStreamer, GenerateManager, GenerationState
from transformers.cli.serving.utils import _GenerationCancelled as GenerationCancelled
from transformers.cli.serving.utils import _StreamError as StreamError


HOOKS: dict[str, dict[str, str]] = {
    "transformers.cli.serving.utils.BaseHandler": {
        "_build_generation_config": "what a request asks for is checked, and stops are added",
        "_unused_fields": "what a request asks for and nobody does is refused",
        "_resolve_model": "there is one model",
        "_validate_request": "fields that the stock server does not know are refused",
    },
    "transformers.cli.serving.chat_completion.ChatCompletionHandler": {
        "_non_streaming": "answers at once",
        "_streaming": "answers piece by piece",
    },
    "transformers.cli.serving.utils.GenerationState": {
        "_generate_managers": "the model's manager is one that answers several requests at once, and cuts answers"
    },
    "transformers.cli.serving.utils.DirectStreamer": {"_enqueue": "an error ends a stream"},
    "transformers.cli.serving.response.ResponseHandler": {
        "_non_streaming": "answers at once",
        "_normalize_input": "messages of the Responses API",
        "_normalize_tools": "tools of the Responses API",
        "_streaming": "answers piece by piece",
    },
}
# Handlers are told of a request's tools since 5.23, by which an answer's calls are read.
TAKES_TOOLS = "tools" in inspect.signature(ChatCompletionHandler._streaming).parameters
# Handlers of the stock server's routes; which there are changes. Ours are put in, the others' routes go.
NO_HANDLERS = {name: None for name in inspect.signature(build_server).parameters if name.endswith("_handler")}


def with_known_names(body: dict[str, Any], unused: Set[str]) -> dict[str, Any]:
    """A request in names that this version reads: older ones know `max_completion_tokens` by its former name alone."""
    if "max_completion_tokens" not in unused or body.get("max_completion_tokens") is None:
        return body
    return {**body, "max_tokens": body["max_completion_tokens"], "max_completion_tokens": None}
