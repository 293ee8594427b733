"""Checks what clients send, and converts it for the processor.

Every modality of the model has OpenAI's two forms, a data: URL or base64, under the modality's name; sensor values may
also be numbers:

    {"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}
    {"type": "input_audio", "input_audio": {"data": "<base64>", "format": "wav"}}
    {"type": "imu_url", "imu_url": {"url": "data:text/csv;base64,..."}}
    {"type": "input_depth", "input_depth": {"data": "<base64 of a 16-bit PNG>"}}
    {"type": "input_imu", "input_imu": {"values": [[0.1, ...], ...], "sampling_rate": 100}}
"""

import base64
import json
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from ...modalities import MODALITIES, UPLOAD_LIMITS, Limits
from ...modalities._arrays import to_numpy
from ...modalities._source import SCHEME, is_data_uri
from ...utils.registry import did_you_mean


_TEXT = ("text", "input_text", "output_text")
_ROLES = {"developer": "system", **{role: role for role in ("system", "user", "assistant", "tool")}}
_URL = re.compile(r"(https?)://", re.IGNORECASE)
_WORD = re.compile(r"[\w .:-]{0,64}")  # valid text of a template's variable: it cannot form a control token
_RANGES = {"temperature": (0, 2), "top_p": (1e-6, 1), "frequency_penalty": (-0.9, 2)}
_SHORT = 50_000  # characters
_PATH = 1000  # characters; a longer text is not the name of a file, but a damaged medium
_ITSELF = "send the file itself, as a data: URL or in base64"
# Unread fields that do not change an answer, and values that ask for the default.
_NO_MATTER = frozenset({"metadata", "service_tier", "store", "stream_options", "user"})
_AS_IT_IS: dict[str, tuple[Any, ...]] = {
    "background": (False,),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "text": ({"format": {"type": "text"}},),
    "tool_choice": ("auto",),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
}
_MOST_STOPS, _LONGEST_STOP, _MOST_BIASES = 4, 64, 300


@dataclass(frozen=True)
class Policy:
    """What a request may ask for.

    Attributes:
        limits: limits of each medium.
        max_media: media per request.
        max_prompt_tokens: limit for a model whose config has no context length.
        max_new_tokens: length limit of an answer.
        allow_urls: fetch http(s) URLs, from public addresses.
        media_root: folder whose files requests may name (`"path": "walk.csv"`); None: none.
        max_requests: requests at once.
    """

    limits: Limits = UPLOAD_LIMITS
    max_media: int = 16
    max_prompt_tokens: int = 32_768
    max_new_tokens: int = 1024
    allow_urls: bool = False
    media_root: Path | None = None
    max_requests: int = 64


def read_messages(messages: Any, modalities: Mapping[str, Any], policy: Policy) -> list[dict[str, Any]]:
    """Chat messages with media in the processor's format.

    Raises:
        ValueError: it is not a chat, does not fit this model, or the policy does not allow it.
    """
    if not isinstance(messages, list) or not messages:
        raise ValueError("`messages` must be a non-empty list.")
    read = [_message(i, message, modalities, policy) for i, message in enumerate(messages)]
    parts = (part for message in read if isinstance(message["content"], list) for part in message["content"])
    if (media := sum(part["type"] != "text" for part in parts)) > policy.max_media:
        raise ValueError(f"The request has {media} media, more than the limit of {policy.max_media}.")
    return read


def is_short_text(messages: Any, *more: Any) -> bool:
    """Whether a request is read quickly: short text only."""
    contents = (
        [message.get("content") for message in messages if isinstance(message, dict)]
        if isinstance(messages, list)
        else []
    )
    parts = [part for content in contents if isinstance(content, list) for part in content]
    if not all(isinstance(part, dict) and part.get("type") in _TEXT for part in parts):
        return False
    return _characters([messages, *more]) <= _SHORT


def _characters(value: Any) -> int:
    """Number of characters of all text in a JSON value, keys included; each other value counts as one."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return 1 + sum(map(len, value)) + sum(map(_characters, value.values()))
    return 1 + (sum(map(_characters, value)) if isinstance(value, list) else 0)


def _message(index: int, message: Any, modalities: Mapping[str, Any], policy: Policy) -> dict[str, Any]:
    where = f"messages[{index}]"
    if not isinstance(message, dict) or message.get("role") not in list(_ROLES):
        raise ValueError(f"{where} must be an object whose role is one of {', '.join(_ROLES)}.")
    read: dict[str, Any] = {"role": _ROLES[message["role"]]}
    for key in ("name", "tool_call_id", "reasoning_content"):
        if isinstance(message.get(key), str):
            read[key] = message[key]
    if message.get("tool_calls"):
        read["tool_calls"] = [_tool_call(where, call) for call in message["tool_calls"]]
    content = "" if message.get("content") is None else message["content"]
    if not isinstance(content, (str, list)):
        raise ValueError(f"{where}.content must be a string or a list of parts.")
    if isinstance(content, list):
        content = [_part(f"{where}.content[{i}]", part, modalities, policy) for i, part in enumerate(content)]
    return {**read, "content": content}


def _tool_call(where: str, call: Any) -> dict[str, Any]:
    """Parses a call's arguments: templates read an object, clients send its JSON."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError(f"{where}.tool_calls must be objects with a function and its name.")
    arguments = function.get("arguments") or {}
    arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    return {**call, "function": {**function, "arguments": arguments}}


def _part(where: str, part: Any, modalities: Mapping[str, Any], policy: Policy) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise ValueError(f"{where} must be an object with a type.")
    if kind in _TEXT:
        if not isinstance(part.get("text"), str):
            raise ValueError(f"{where}.text must be a string.")
        return {"type": "text", "text": part["text"]}
    forms = {form: name for name in modalities for form in (name, f"input_{name}", f"{name}_url")}
    if kind not in forms:
        raise ValueError(
            f"{where} is of type {kind!r}, but this model takes text, {', '.join(modalities) or 'and nothing else'} "
            f"(as input_... or ..._url).{did_you_mean(kind, forms)}"
        )
    name = forms[kind]
    keys = [key for key in (kind, name, f"{name}_url", f"input_{name}") if part.get(key) is not None]
    payload = part[keys[0]] if keys else {key: value for key, value in part.items() if key != "type"}
    try:
        return {"type": name, name: _source(name, payload, policy)}
    except ValueError as error:
        raise ValueError(f"{where} ({kind}): {error}") from error


def _source(name: str, payload: Any, policy: Policy) -> Any:
    """A medium for the processor. The processor reads plain strings as paths, so only data: and URLs are returned."""
    if MODALITIES[name].medium == "text":
        text = payload.get("text") if isinstance(payload, dict) else payload
        if not isinstance(text, str):
            raise ValueError("expected text.")
        return text
    if isinstance(payload, str):
        return _encoded(name, payload, policy)
    if isinstance(payload, list):
        return to_numpy(payload, "the list of values")
    if isinstance(payload, dict):
        for key in ("url", "data", "base64"):
            if isinstance(payload.get(key), str):
                return _encoded(name, payload[key], policy)
        if isinstance(payload.get("path"), str):
            return _file(payload["path"], policy.media_root)
        for key in ("values", "array"):
            if isinstance(payload.get(key), list):
                return _readings(payload, key)
    raise ValueError(
        'expected a data: URL, {"url": "data:..."}, {"data": "<base64>"} or, for a sensor, {"values": []}.'
    )


def _encoded(name: str, text: str, policy: Policy) -> str | dict[str, str]:
    if is_data_uri(text) or (policy.allow_urls and _URL.match(text)):
        return text
    if _URL.match(text):
        raise ValueError(f"URLs are not fetched here (who runs the server can allow it: --allow-urls): {_ITSELF}.")
    is_url = SCHEME.match(text)
    if not is_url and (len(text) > _PATH or _is_base64(text)):
        return {"base64": text}
    hint = ""
    if policy.media_root is not None:
        hint = f', or name a file of the server\'s media folder as a path, {{"type": "{name}", "path": "..."}}'
    fault = (
        "URLs of this kind are not fetched here" if is_url else f"{text!r} is not a data: URL, and not valid base64"
    )
    raise ValueError(f"{fault}: {_ITSELF}{hint}.")


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        return False
    return True


def _readings(payload: dict[str, Any], key: str) -> Any:
    values = to_numpy(payload[key], f'"{key}"')
    timing = {name: payload[name] for name in ("sampling_rate", "time") if payload.get(name) is not None}
    if isinstance(timing.get("time"), list):
        timing["time"] = to_numpy(timing["time"], '"time"')
    return {"array": values, **timing} if timing else values


def _file(path: str, root: Path | None) -> Path:
    if root is None:
        raise ValueError(
            f"files of the server are not read (who runs it can allow a folder of them: --media-root): {_ITSELF}."
        )
    root = root.resolve()
    found = (root / path).resolve()
    if not found.is_relative_to(root):
        raise ValueError(f"{path!r} is outside the server's media folder.")
    return found


def check_read(body: Mapping[str, Any], unread: Set[str]) -> None:
    """Raises ValueError for a field that the server does not read and that would change the answer."""
    for name in sorted(unread & body.keys() - _NO_MATTER):
        if body[name] is not None and body[name] not in _AS_IT_IS.get(name, ()):
            raise ValueError(f"`{name}` is not supported here (given {body[name]!r:.100}): leave it out.")


def check_options(body: Mapping[str, Any], vocabulary_size: int) -> None:
    """Raises ValueError for options on which `generate` would fail."""
    if body.get("generation_config") is not None:
        raise ValueError("`generation_config` is not read from requests: set temperature, top_p, max_tokens, ...")
    tools = body.get("tools")
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise ValueError("`tools` must be a list of objects.")
    for name in ("stream", "parallel_tool_calls"):
        if not isinstance(body.get(name), (bool, type(None))):
            raise ValueError(f"`{name}` must be true or false.")
    for name, (low, high) in _RANGES.items():
        _check_number(body, name, low, high)
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        _check_number(body, name, 1, 2**31, whole=True)
    _check_number(body, "seed", -(2**63), 2**63 - 1, whole=True)
    stops = body.get("stop")
    stops = stops if isinstance(stops, list) else [] if stops is None else [stops]
    if len(stops) > _MOST_STOPS or not all(isinstance(s, str) and 0 < len(s) <= _LONGEST_STOP for s in stops):
        raise ValueError(f"`stop` must be at most {_MOST_STOPS} strings of 1 to {_LONGEST_STOP} characters.")
    biases = {} if body.get("logit_bias") is None else body["logit_bias"]
    if not isinstance(biases, dict) or len(biases) > _MOST_BIASES:
        raise ValueError(f"`logit_bias` must be an object of at most {_MOST_BIASES} tokens.")
    for token in biases:
        if not token.isdecimal() or int(token) >= vocabulary_size:
            raise ValueError(f"`logit_bias` has {token!r}, which is not a token id.")
        _check_number(biases, token, -100, 100)


def _check_number(body: Mapping[str, Any], name: str, low: float, high: float, whole: bool = False) -> None:
    value = body.get(name)
    if value is None:
        return
    number = isinstance(value, int if whole else Real) and not isinstance(value, bool)
    if not (number and low <= value <= high):
        kind = "an integer" if whole else "a number"
        raise ValueError(f"`{name}` must be {kind} from {low:g} to {high:g}, not {value!r:.50}.")


def check_variables(given: Any, known: frozenset[str]) -> dict[str, Any]:
    """Checks `chat_template_kwargs`: only variables of the template, no arguments of the processor.

    Raises:
        ValueError: a name is unknown, or a value is not a number, a bool or a plain word.
    """
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise ValueError("`chat_template_kwargs` must be an object.")
    for name, value in given.items():
        if name not in known:
            raise ValueError(
                f"The chat template does not read {name!r}. It reads: {', '.join(sorted(known)) or 'nothing'}."
            )
        plain = _WORD.fullmatch(value) if isinstance(value, str) else isinstance(value, (bool, int, float, type(None)))
        if not plain:
            raise ValueError(f"{name!r} of the chat template must be a number, true, false or a plain word.")
    return given
