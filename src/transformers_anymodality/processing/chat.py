"""Chats as text: the template that also writes media placeholders, and what of the text the assistant said.

A language model's own template is kept word for word; what is put in front of it only turns content parts into one
string, so a chat of plain strings renders as before.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

from ..utils.upstream import mark_chat, render_jinja_template
from .messages import without_media
from .prompt import Span, Text
from .tokenization import PromptTokenizer


# For language models that bring no template.
FALLBACK_TEMPLATE = """\
{%- for message in messages -%}
{{- message.role + ':' -}}
{%- if message.role == 'assistant' -%}
{%- generation -%}{{- ' ' + message.content + eos_token -}}{%- endgeneration -%}
{%- else -%}
{{- ' ' + message.content + '\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'assistant:' -}}{%- endif -%}"""

_EXTENSION = """\
{%- set media_tokens = MEDIA_TOKENS -%}
{%- if messages | rejectattr('content', 'string') | list -%}
{%- set flat = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- if message.content is sequence and message.content is not string and message.content is not mapping -%}
{%- set said = namespace(text='') -%}
{%- for part in message.content -%}
{%- if part is string -%}{%- set said.text = said.text + part -%}
{%- elif part.type in media_tokens -%}{%- set said.text = said.text + media_tokens[part.type] -%}
{%- elif part.text is defined -%}{%- set said.text = said.text + part.text -%}
{%- else -%}{{- raise_exception('This model has no modality ' + part.type) -}}
{%- endif -%}
{%- endfor -%}
{%- set flat.messages = flat.messages + [dict(message, content=said.text)] -%}
{%- else -%}{%- set flat.messages = flat.messages + [message] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
{%- endif %}
"""

# Written into texts to see where a template puts them. No template has a reason to change these, and nobody can type what
# every process draws anew.
_SECRET = f"\ufdd0{secrets.randbelow(10**12)}"
_BEGIN, _END = f"{_SECRET}\ufdd1", f"{_SECRET}\ufdd3"
_STAND_IN = f"{_SECRET}\ufdd4{{}}\ufdd4"
_STAND_INS = re.compile(_STAND_IN.format("([0-9]+)"))
_GENERATION_TAG = re.compile(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})")


def extend_template(template: str | dict[str, str] | None, tokens: dict[str, str]) -> Any:
    """A chat template (or several, by name) that writes `tokens[modality]` for content parts of that type.

    One that reads `media_tokens` (modality -> token) does so itself, and is given them.
    """
    if isinstance(template, dict):
        return {name: extend_template(one, tokens) for name, one in template.items()}
    if template and "media_tokens" in template:
        return "{%- set media_tokens = MEDIA_TOKENS -%}".replace("MEDIA_TOKENS", json.dumps(tokens)) + template
    return _EXTENSION.replace("MEDIA_TOKENS", json.dumps(tokens, sort_keys=True)) + (template or FALLBACK_TEMPLATE)


@lru_cache
def _marking(template: str) -> str | None:
    """The template, with marks where generation tags are; None for one without. A tag is a call block, and so is this."""
    if _GENERATION_TAG.search(template) is None:
        return None
    macro = f"{{%- macro mark_said() -%}}{_BEGIN}{{{{- caller() -}}}}{_END}{{%- endmacro %}}\n"
    return macro + _GENERATION_TAG.sub(
        lambda tag: f"{tag[1]}{'endcall' if tag[2] else 'call mark_said()'}{tag[3]}", template
    )


class ChatTemplate:
    """Writes chats, and knows what of them the assistant said.

    Args:
        source: Jinja.
        tokenizer: tells control tokens.
        tools, documents, variables: what the template is given beside messages.
    """

    def __init__(
        self,
        source: str,
        tokenizer: PromptTokenizer,
        tools: list | None = None,
        documents: list[dict] | None = None,
        variables: dict[str, Any] | None = None,
    ):
        self.source, self.tokenizer = source, tokenizer
        self.tools, self.documents, self.variables = tools, documents, variables or {}

    def write(self, messages: list[dict], said: bool = False, sanitize: bool | None = None, **options: Any) -> Text:
        """
        Args:
            messages: dicts; of media, only their types are read.
            said: whether to find what the assistant said: by the template's generation tags where it has them, else by
                where it puts the assistant's words.
            sanitize: whether typed control tokens are marked; if there are any, unless told.
            options: `add_generation_prompt`, `continue_final_message`.

        Raises:
            ValueError: the assistant's words cannot be found, as the template does not write them as they are.
        """
        given: tuple[Any, ...] = (without_media(messages), self.tools, self.documents, self.variables)
        if sanitize is None:
            sanitize = self.tokenizer.types_control_tokens(given[:3])
        if sanitize:
            given = mark_chat(self.tokenizer.tokenizer, self.source, *given)
        chat = _Chat(self.source, self.tokenizer, *given, options)
        text, spans = chat.with_said() if said else (chat.render(), [])
        return Text(text, spans, sanitize, complete=self.tokenizer.begins(text))


@dataclass
class _Chat:
    """What a template writes."""

    source: str
    tokenizer: PromptTokenizer
    messages: list[dict]
    tools: list | None
    documents: list[dict] | None
    variables: dict[str, Any]
    options: dict[str, Any]

    def render(self, messages: list[dict] | None = None, source: str | None = None, **options: Any) -> str:
        (text,), _ = render_jinja_template(
            conversations=[self.messages if messages is None else messages],
            tools=self.tools,
            documents=self.documents,
            chat_template=source or self.source,
            **{**self.options, **options},
            **{**self.tokenizer.tokenizer.special_tokens_map, **self.variables},
        )
        return text

    def with_said(self) -> tuple[str, list[Span]]:
        """The text, and what of it the assistant said."""
        marking = _marking(self.source)
        if marking is None:
            text = self.render()
            spans = self._written(text)
        else:
            text, spans = _unmarked(self.render(source=marking))
        return text, [(start, self._stop(text, start, end)) for start, end in spans]

    def _written(self, text: str) -> list[Span]:
        """Where the assistant's messages stand in `text`."""
        turns = [turn for turn, message in enumerate(self.messages) if message.get("role") == "assistant"]
        words = [turn for turn in turns if not self.messages[turn].get("tool_calls")]
        found = self._aligned(turns, text)
        if len(found) < len(turns) > len(words):  # a template may refuse tools that nobody called
            found = {**self._aligned(words, text), **found}
        return [found[turn] if turn in found else self._alone(turn, text) for turn in turns]

    def _aligned(self, turns: list[int], text: str) -> dict[int, Span]:
        """Where messages of the assistant stand, by one text in which stand-ins take the places of them all.

        What is between these is in `text`, too. A message whose neighbours could also be found elsewhere (because it has
        their words in it) is left out; so are all if the template writes something else around the stand-ins.
        """
        messages = list(self.messages)
        for turn in turns:
            message = {key: value for key, value in messages[turn].items() if key != "tool_calls"}
            messages[turn] = {**message, "content": _STAND_IN.format(turn)}
        try:
            between = _STAND_INS.split(self.render(messages))
        except Exception:  # templates raise what they like
            return {}
        parts, found = between[::2], between[1::2]
        if not turns or found != list(map(str, turns)):
            return {}
        places = _only_places(text, parts)
        spans = {}
        for turn, start, part, end in zip(turns, places, parts, places[1:], strict=False):
            if start is not None and end is not None:
                spans[turn] = (start + len(part), end)
        return spans

    def _alone(self, turn: int, text: str) -> Span:
        """Where the message `turn` of the assistant stands, by texts that are written for it alone."""
        messages, calls = self.messages, self.messages[turn].get("tool_calls")
        if calls and (span := self._called(turn, text)) is not None:
            return span
        stand_in = {**messages[turn], "content": _STAND_IN.format(turn)}
        before, found, behind = self.render([*messages[:turn], stand_in, *messages[turn + 1 :]]).partition(
            stand_in["content"]
        )
        start, end = len(before), len(text) - len(behind)
        if not found or end < start or not text.startswith(before) or not text.endswith(behind):
            raise ValueError(
                f"The chat template does not write message {turn} of the assistant as it is, so its labels cannot be "
                "placed. Put {% generation %} tags into the template."
            )
        if calls and (stop := self.tokenizer.control_tokens.search(text, end)) is not None:
            end = stop.end()
        return start, end

    def _called(self, turn: int, text: str) -> Span | None:
        """Where a message with tool calls stands, which no template writes as they are: between what precedes it and
        its last control token. None if the template writes what precedes it otherwise at the end of a chat."""
        if turn == 0:
            return None
        before = self.render(self.messages[:turn], add_generation_prompt=True)
        # What ends the chat, but not the message, makes way for a generation prompt.
        through = [self.render(self.messages[: turn + 1], add_generation_prompt=prompt) for prompt in (False, True)]
        shared = os.path.commonprefix([text, *through])
        if not shared.startswith(before):
            return None
        tokens = list(self.tokenizer.control_tokens.finditer(shared, len(before)))
        return len(before), tokens[-1].end() if tokens else len(shared)

    def _stop(self, text: str, start: int, end: int) -> int:
        """Where the stop token ends that follows what was said at once; `end` if it is in there already."""
        within, behind = self._stops
        last = within.search(text, start, end)
        if last is not None and last[1] not in self.tokenizer.tokens.values():
            return end
        stop = behind.match(text, end)
        return end if stop is None else stop.end()

    @cached_property
    def _stops(self) -> tuple[re.Pattern, re.Pattern]:
        control_tokens = self.tokenizer.control_tokens.pattern
        return re.compile(rf"({control_tokens})\s*$"), re.compile(rf"\s*?(?:{control_tokens})")


def _only_places(text: str, parts: list[str]) -> list[int | None]:
    """Where each of `parts` stands in `text`, which begins with the first, ends with the last, and has the others between
    in their order; None for one that could stand elsewhere, or if `text` is none of their making."""
    nowhere: list[int | None] = [None] * len(parts)
    last = len(text) - len(parts[-1])
    earliest, latest = [0], [last]
    for part, following in pairwise(parts[:-1]):
        earliest.append(text.find(following, earliest[-1] + len(part), last))
        if earliest[-1] < 0:
            return nowhere
    if not text.startswith(parts[0]) or earliest[-1] + len(parts[-2]) > last or not text.endswith(parts[-1]):
        return nowhere
    for part in parts[-2:0:-1]:
        latest.append(text.rfind(part, 0, latest[-1]))
    pairs = zip([*earliest, last], [0, *latest[::-1]], strict=True)
    return [early if early == late else None for early, late in pairs]


def _unmarked(marked: str) -> tuple[str, list[Span]]:
    """A text without the marks of generation tags, and the spans between these."""
    pieces: list[str] = []
    spans, begun, length = [], [], 0
    for piece in re.split(f"({_BEGIN}|{_END})", marked):
        if piece == _BEGIN:
            begun.append(length)
        elif piece == _END:
            spans.append((begun.pop(), length))
        else:
            pieces.append(piece)
            length += len(piece)
    return "".join(pieces), spans
