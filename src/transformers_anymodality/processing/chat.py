"""Chats: their messages as dicts, their media, and their text. The template also writes media placeholders, and shows which
text is the assistant's.

A language model's own template stays unchanged. A prefix only joins content parts to one string, so a chat of plain
strings renders as before.
"""

import json
import os
import re
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cached_property, lru_cache
from inspect import isroutine
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any

from transformers.utils import get_json_schema

from ..modalities import MODALITIES, UnknownModalityError
from ..modalities._source import is_array, told
from ..utils.registry import did_you_mean
from ..utils.upstream import render_jinja_template
from .tokenization import PromptTokenizer, Span, Text


# For language models without a template.
FALLBACK_TEMPLATE = Path(__file__).with_name("fallback.jinja").read_text(encoding="utf-8")

# Entries are read with brackets, and text is joined in a block: attributes are slow in the sandbox.
_EXTENSION = Path(__file__).with_name("media.jinja").read_text(encoding="utf-8")

# A mark in a text shows where a template puts it. Templates do not change it, and nobody can type it, because every process
# draws a new one.
_MARK = f"\ufdd0{secrets.randbelow(10**12)}\ufdd1"
_GENERATION_TAG = re.compile(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})")


def read_chats(conversation: Any) -> tuple[list[list[dict[str, Any]]], bool]:
    """Chats with messages as dicts, and whether several were given.

    Args:
        conversation: a list of messages (dicts, dataclasses, pydantic models), an object that has such `messages`, or a
            list of these.

    Raises:
        ValueError: it is none of these, or a chat has no messages.
    """
    if not isinstance(conversation, (list, tuple)) and not hasattr(conversation, "messages"):
        raise ValueError(f"A chat is a list of messages, or a list of such lists; not {type(conversation).__name__}.")
    several = bool(conversation) and isinstance(conversation, (list, tuple))
    several = several and all(isinstance(chat, (list, tuple)) or hasattr(chat, "messages") for chat in conversation)
    return [_messages(chat) for chat in (conversation if several else [conversation])], several


def _messages(chat: Any) -> list[dict[str, Any]]:
    messages = [_plain(message) for message in getattr(chat, "messages", chat)]
    if not messages:
        raise ValueError("A chat has no messages.")
    if not all(isinstance(message, dict) for message in messages):
        raise ValueError("A chat has messages that are not dicts with a role and a content.")
    # Some APIs write None for missing values, and templates would print it.
    return [{key: value for key, value in message.items() if value is not None} for message in messages]


def _plain(value: Any) -> Any:
    """Dicts for dataclasses and pydantic models, except inside media; an OpenAI `image_url` as an image."""
    if isinstance(value, str):
        return value
    if type(value) not in (dict, list):  # JSON values
        if is_dataclass(value) and not isinstance(value, type):
            value = {field.name: getattr(value, field.name) for field in fields(value)}
        elif callable(dump := getattr(value, "model_dump", None)):
            value = dump()
    if isinstance(value, (dict, Mapping)):  # isinstance is slow for abstract classes
        kind = value.get("type")
        if kind == "image_url" and (image := value.get("image_url")) is not None:
            return {"type": "image", "url": image.get("url", "") if isinstance(image, Mapping) else image}
        if kind is not None and _is_medium(value):
            return dict(value)
        return {key: entry if isinstance(entry, str) else _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _schemas(tools: list | None) -> list | None:
    """Functions as dicts for templates."""
    return tools and [get_json_schema(tool) if isroutine(tool) else tool for tool in tools]


def _is_medium(part: Any) -> bool:
    return isinstance(part, (dict, Mapping)) and part.get("type") in MODALITIES


def media_of(messages: Iterable[Any], modalities: Collection[str]) -> dict[str, list[Any]]:
    """Modality -> the media of one chat, in their order; `modalities` are the model's.

    Raises:
        ValueError: a message or a content part is invalid.
        UnknownModalityError: a part has another type.
    """
    found: dict[str, list[Any]] = {}
    for turn, message in enumerate(messages):
        if not isinstance(message, dict) or "role" not in message:
            raise ValueError(f"Message {turn} is not a dict with a role and a content.")
        content = message.get("content") or []
        if isinstance(content, dict) and message["role"] in ("system", "user", "assistant"):
            raise ValueError(f"Message {turn} has a dict as its content; it must be a string or a list of parts.")
        for part in content if isinstance(content, (list, tuple)) else ():
            kind = _kind(turn, part, modalities)
            if kind != "text" and (source := part_source(kind, part)) is not None:
                found.setdefault(kind, []).append(source)
    return found


def _kind(turn: int, part: Any, modalities: Collection[str]) -> str:
    """A content part's type."""
    if isinstance(part, str):
        return "text"
    if not isinstance(part, dict):
        raise ValueError(f"Message {turn} has a part that is neither a dict nor a string: {type(part).__name__}.")
    kind = part.get("type", "text")
    if kind == "text" and not isinstance(part.get("text"), str):
        raise ValueError(f"Message {turn} has a text part whose text is {part.get('text')!r}.")
    if kind != "text" and kind not in modalities:
        raise UnknownModalityError(
            f'Message {turn} has a part of type {kind!r}, but this model takes "text" and '
            f"{', '.join(modalities) or 'nothing else'}.{did_you_mean(kind, modalities)}"
        )
    return kind


def parts_of(messages: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The content parts of messages; a string counts as a text part."""
    for message in messages:
        content = message.get("content")
        for part in [content] if isinstance(content, str) else content if isinstance(content, (list, tuple)) else ():
            if isinstance(part, (str, Mapping)):
                yield {"type": "text", "text": part} if isinstance(part, str) else part


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message, without media."""
    return "".join(part.get("text") or "" for part in parts_of([message]))


def part_source(kind: str, part: Mapping[str, Any]) -> Any:
    """The medium of a content part, or None for a bare placeholder whose medium is given separately."""
    keys = ("base64", "bytes", "files", "array", "values", "sampling_rate", "time")
    rest = {key: part[key] for key in keys if key in part}
    path = None if part.get("path") is None else Path(part["path"])
    source = next((one for one in (part.get(kind), path, part.get("url"), rest or None) if one is not None), None)
    if source is None or not (said := told(part)):
        return source
    # Only a dict can name the page or the unit.
    if not isinstance(source, Mapping):
        source = {"array" if is_array(source) else "path": source}
    return {**source, **said}


def without_media(messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages for templates: media only by their type. Templates are foreign code, so they get copies."""
    bare = []
    for message in messages:
        if isinstance(content := message.get("content"), (list, tuple)):
            message = {**message, "content": [_place(part) if _is_medium(part) else part for part in content]}
        bare.append(message)
    return bare


def _place(part: Mapping[str, Any]) -> dict[str, Any]:
    told = ("type", "url", "path")
    return {key: value if key in told and isinstance(value, str) else True for key, value in part.items()}


def extend_template(template: str | dict[str, str] | None, tokens: dict[str, str]) -> Any:
    """A chat template (or several, by name) that writes `tokens[modality]` for content parts of that type.

    A template that reads `media_tokens` (modality -> token) writes them itself, and gets this variable.
    """
    if isinstance(template, dict):
        return {name: extend_template(one, tokens) for name, one in template.items()}
    if template and "media_tokens" in template:
        return "{%- set media_tokens = MEDIA_TOKENS -%}".replace("MEDIA_TOKENS", json.dumps(tokens)) + template
    return _extension(tokens) + (template or FALLBACK_TEMPLATE)


def text_template(template: str, tokens: dict[str, str]) -> str:
    """Undoes `extend_template`: the language model's own template, which does not write media."""
    return template.removeprefix(_extension(tokens))


def _extension(tokens: dict[str, str]) -> str:
    return _EXTENSION.replace("MEDIA_TOKENS", json.dumps(tokens, sort_keys=True))


@lru_cache
def _marking(template: str) -> str | None:
    """The template with marks in place of its generation tags (both are call blocks); None if it has no such tags."""
    if _GENERATION_TAG.search(template) is None:
        return None
    macro = f"{{%- macro mark_said() -%}}{_MARK}{{{{- caller() -}}}}{_MARK}{{%- endmacro %}}\n"
    return macro + _GENERATION_TAG.sub(
        lambda tag: f"{tag[1]}{'endcall' if tag[2] else 'call mark_said()'}{tag[3]}", template
    )


@lru_cache
def _around(template: str, roles: tuple[str, ...], *given: tuple[str, Any]) -> list[str] | None:
    """The template's text before, between and after the messages of chats with these roles; None if it does not write each
    message once, in order."""
    messages = [{"role": role, "content": f"{_MARK}{turn}{_MARK}"} for turn, role in enumerate(roles)]
    try:
        text = render_jinja_template(conversations=[messages], chat_template=template, **dict(given))[0][0]
    except Exception:  # templates may raise anything
        return None
    pieces = text.split(_MARK)
    return pieces[::2] if pieces[1::2] == [*map(str, range(len(roles)))] else None


class ChatWriter:
    """Writes a chat with a template, and finds the assistant's text in it.

    Args:
        template: Jinja.
        tokenizer: knows control tokens.
        messages: from `read_chats`.
        tools, documents, variables: further arguments of the template.
        sanitize: whether typed control tokens are text.
        options: `add_generation_prompt`, `continue_final_message`.
    """

    def __init__(
        self,
        template: str,
        tokenizer: PromptTokenizer,
        messages: list[dict],
        tools: list | None = None,
        documents: list[dict] | None = None,
        variables: dict[str, Any] | None = None,
        sanitize: bool = True,
        **options: Any,
    ):
        self.template, self.tokenizer, self.sanitize = template, tokenizer, sanitize
        given = (without_media(messages), _plain(_schemas(tools)), _plain(documents), _plain(variables or {}))
        self.stand_ins = None
        if sanitize:
            given, self.stand_ins = tokenizer.typed.replace(given, template)
        self.messages, tools, documents, variables = given
        special = tokenizer.tokenizer.special_tokens_map
        self.given = {"tools": tools, "documents": documents, **options, **special, **variables}
        self.is_steered = tools is not None or documents is not None or bool(variables)

    def write(self, said: bool = False) -> Text:
        """
        Args:
            said: whether to find the assistant's text with its end token: by the template's generation tags if it has
                them, else by the place of the assistant's words.

        Raises:
            ValueError: the template changes the assistant's words.
        """
        spans: list[Span] = []
        marking = _marking(self.template) if said else None
        if marking is not None:
            pieces = self._render(self.messages, marking).split(_MARK)
            text, ends = "".join(pieces), [*accumulate(map(len, pieces))]
            spans = [*zip(ends[::2], ends[1::2], strict=False)]
        else:
            text = self._render(self.messages)
            spans = self._find_said(text) if said else []
        spans = [self._with_stop(text, *span) for span in spans]
        typed = text if self.stand_ins is None else self.stand_ins.put_back(text)
        return Text(typed, spans, text if self.sanitize else None, self.tokenizer.begins(text))

    def _render(self, messages: list[dict], template: str | None = None, **options: Any) -> str:
        given: dict[str, Any] = {"chat_template": template or self.template, **self.given, **options}
        text = render_jinja_template(conversations=[messages], **given)[0][0]
        return text if self.stand_ins is None else self.stand_ins.unescaped(text)

    def _find_said(self, text: str) -> list[Span]:
        """Spans of the assistant's messages in `text`: by the text around all messages, else by marks in their place. Marks
        are tried for all messages at once, then for each remaining one."""
        if (spans := self._find_words(text)) is not None:
            return spans
        turns = [turn for turn, message in enumerate(self.messages) if message.get("role") == "assistant"]
        found: dict[int, Span] = {}
        # A template may refuse tool results without a call.
        words = [turn for turn in turns if not self.messages[turn].get("tool_calls")]
        for group in (turns, words, *([turn] for turn in turns)):
            if any(turn not in found for turn in group):
                found = {**self._find(group, text), **found}
        return [found[turn] if turn in found else self._find_calls(turn, text) for turn in turns]

    def _find_words(self, text: str) -> list[Span] | None:
        """Spans of the assistant's messages, if `text` is the template's usual text for these roles with this chat's words
        between; else None."""
        if self.is_steered or any(message.keys() != {"role", "content"} for message in self.messages):
            return None
        around = _around(self.template, tuple(message["role"] for message in self.messages), *self.given.items())
        if around is None:
            return None
        words = [self._words(message) for message in self.messages]
        pieces = [*chain.from_iterable(zip(around, [*words, ""], strict=True))]
        if "".join(pieces) != text:
            return None
        ends = [*accumulate(map(len, pieces))]
        places = zip(ends[::2], ends[1::2], self.messages, strict=False)
        return [(start, end) for start, end, message in places if message["role"] == "assistant"]

    def _words(self, message: Mapping[str, Any]) -> str:
        """The string of a message, for templates that take strings."""
        tokens = self.tokenizer.tokens
        return "".join(tokens.get(part.get("type"), str(part.get("text"))) for part in parts_of([message]))

    def _find(self, turns: list[int], text: str) -> dict[int, Span]:
        """Spans of messages of the assistant, by a text with marks in their place: the text between the marks is in `text`,
        too. Ambiguous messages are left out; all are, if the template writes something else between the marks."""
        messages = list(self.messages)
        for turn in turns:
            message = {key: value for key, value in messages[turn].items() if key != "tool_calls"}
            messages[turn] = {**message, "content": _MARK}
        try:
            parts = self._render(messages).split(_MARK)
        except Exception:  # templates may raise anything
            return {}
        places = _only_places(text, parts) if len(parts) == len(turns) + 1 else []
        spans = zip(turns, places, parts, places[1:], strict=False)
        return {turn: (at + len(part), end) for turn, at, part, end in spans if at is not None and end is not None}

    def _find_calls(self, turn: int, text: str) -> Span:
        """The span of a message with tool calls: from the end of the earlier messages to its last control token."""
        if turn and self.messages[turn].get("tool_calls"):
            before = self._render(self.messages[:turn], add_generation_prompt=True)
            # Text that ends the chat, but not the message, is absent before a generation prompt.
            through = [self._render(self.messages[: turn + 1], add_generation_prompt=add) for add in (False, True)]
            shared = os.path.commonprefix([text, *through])
            if shared.startswith(before):
                tokens = [*self.tokenizer.typed.control_tokens.finditer(shared, len(before))]
                return len(before), tokens[-1].end() if tokens else len(shared)
        raise ValueError(
            f"The chat template changes the text of message {turn} of the assistant, so its labels cannot be placed. "
            "Put {% generation %} tags into the template."
        )

    def _with_stop(self, text: str, start: int, end: int) -> Span:
        """The span extended by a stop token that follows directly, unless it ends with one already."""
        within, behind = self._stops
        last = within.search(text, start, end)
        if last is not None and last[1] not in self.tokenizer.tokens.values():
            return start, end
        stop = behind.match(text, end)
        return start, end if stop is None else stop.end()

    @cached_property
    def _stops(self) -> tuple[re.Pattern, re.Pattern]:
        control_tokens = self.tokenizer.typed.control_tokens.pattern
        return re.compile(rf"({control_tokens})\s*$"), re.compile(rf"\s*?(?:{control_tokens})")


def _only_places(text: str, parts: list[str]) -> list[int | None]:
    """The place of each of `parts` in `text`, which begins with the first, ends with the last, and has the others between,
    in order. None for an ambiguous part; None for all if `text` does not have this form."""
    last = len(text) - len(parts[-1])
    earliest, latest = [0], [last]
    for part, following in pairwise(parts[:-1]):
        earliest.append(text.find(following, earliest[-1] + len(part), last))
        if earliest[-1] < 0:
            return [None] * len(parts)
    if not text.startswith(parts[0]) or earliest[-1] + len(parts[-2]) > last or not text.endswith(parts[-1]):
        return [None] * len(parts)
    for part in parts[-2:0:-1]:
        latest.append(text.rfind(part, 0, latest[-1]))
    pairs = zip([*earliest, last], [0, *latest[::-1]], strict=True)
    return [early if early == late else None for early, late in pairs]
