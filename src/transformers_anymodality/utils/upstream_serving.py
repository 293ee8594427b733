"""As `upstream`, for Transformers' server: these names are not documented, and each release changes some."""

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
        "_build_generation_config": "a request's options are checked, and stops are added",
        "_unused_fields": "fields of a request that nothing reads are refused",
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
# Since 5.23 handlers get a request's tools, which they need to parse an answer's calls.
TAKES_TOOLS = "tools" in inspect.signature(ChatCompletionHandler._streaming).parameters
# Handlers of the stock server's routes, which vary by version. Ours are passed in, the others' routes are removed.
NO_HANDLERS = {name: None for name in inspect.signature(build_server).parameters if name.endswith("_handler")}


def with_known_names(body: dict[str, Any], unused: Set[str]) -> dict[str, Any]:
    """A request with the names that this version reads: older ones know only the former name of `max_completion_tokens`."""
    if "max_completion_tokens" not in unused or body.get("max_completion_tokens") is None:
        return body
    return {**body, "max_tokens": body["max_completion_tokens"], "max_completion_tokens": None}
