"""Chats: the template that also writes media placeholders, and which tokens of a chat the assistant said.

A language model's own template is kept word for word; what is put in front of it only turns content parts into one
string, so a chat of plain strings renders as before.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils.chat_template_utils import (
    _encode_chat_piece,
    _get_control_token_patterns,
    render_jinja_template,
)

from ..modalities import MODALITIES, UnknownModalityError
from ..utils.registry import did_you_mean


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
{%- set messages = flat.messages %}
"""

# Written by templates between pieces of text that are tokenised by themselves; no tokenizer ever sees it.
PIECE_END = "\ufdd2"
_GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Stands for what an assistant said, to see where a template puts it. No template has a reason to change it.
_SENTINEL = "\ufdd0\ufdd1\ufdd0"


def extend_template(template: str | dict[str, str] | None, tokens: dict[str, str]) -> Any:
    """A chat template (or several, by name) that writes `tokens[modality]` for content parts of that type.

    One that reads `media_tokens` (modality -> token) does so itself, and is given them.
    """
    if isinstance(template, dict):
        return {name: extend_template(one, tokens) for name, one in template.items()}
    if template and "media_tokens" in template:
        return "{%- set media_tokens = MEDIA_TOKENS -%}".replace("MEDIA_TOKENS", json.dumps(tokens)) + template
    return _EXTENSION.replace("MEDIA_TOKENS", json.dumps(tokens, sort_keys=True)) + (template or FALLBACK_TEMPLATE)


class ChatMixin:
    """The part of the processor that deals with messages."""

    tokenizer: Any
    modalities: dict[str, dict[str, Any]]
    text_settings: dict[str, Any]

    def apply_chat_template(
        self,
        conversation: list,
        chat_template: str | None = None,
        tokenize: bool = False,
        return_assistant_tokens_mask: bool = False,
        sanitize_control_tokens: bool | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs,
    ) -> Any:
        """As Transformers' own, for parts of every modality: `{"type": "imu", "path": "walk.csv"}` (or `"url"`,
        `"base64"`, or the medium itself under the modality's name).

        Control tokens that a user typed, placeholders among them, are text (`sanitize_control_tokens`, by default
        whenever there are any; Transformers cannot do so together with `return_assistant_tokens_mask`).
        """
        if sanitize_control_tokens is None:
            given = [conversation, kwargs.get("tools"), kwargs.get("documents")]
            wanted = tokenize and not return_assistant_tokens_mask
            sanitize_control_tokens = bool(wanted and self._types_control_tokens(given))
        return super().apply_chat_template(
            conversation,
            chat_template,
            tokenize=tokenize,
            return_assistant_tokens_mask=return_assistant_tokens_mask,
            sanitize_control_tokens=sanitize_control_tokens,
            processor_kwargs=dict(processor_kwargs or {}),  # a copy: Transformers adds to it
            **kwargs,
        )

    def _normalize_conversations(self, conversation: Any) -> tuple[list, bool]:
        if not isinstance(conversation, (list, tuple)) and not hasattr(conversation, "messages"):
            raise ValueError(
                f"A chat is a list of messages, or a list of such lists; not {type(conversation).__name__}."
            )
        if isinstance(conversation, (list, tuple)):
            several = conversation and all(isinstance(chat, (list, tuple)) for chat in conversation)
            for chat in conversation if several else [conversation]:
                if not chat:
                    raise ValueError("A chat has no messages.")
                if not all(hasattr(message, "items") for message in chat):
                    raise ValueError("A chat has messages that are no dicts with a role and a content.")
        return super()._normalize_conversations(conversation)

    def _types_control_tokens(self, given: Any) -> bool:
        """Whether a text in chats, tools or documents holds a special token."""
        if isinstance(given, str):
            return self._control_tokens.search(given) is not None
        if isinstance(given, dict):
            medium = given.get("type") in self.modalities
            return not medium and any(self._types_control_tokens(value) for value in given.values())
        if isinstance(given, (list, tuple)):
            return any(self._types_control_tokens(entry) for entry in given)
        return False

    @cached_property
    def _control_tokens(self) -> re.Pattern:
        special = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        return re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")

    def _multimodal_inputs_from_conversations(
        self, conversations, audio_loading_params=None, load_audio_from_video=False
    ):
        """Media of the conversations, per conversation, in Transformers' order of return."""
        media: dict[str, list[list[Any]]] = {name: [] for name in self.modalities}
        for conversation in conversations:
            found = self.media_of(conversation)
            for name in media:
                media[name].append(found.get(name, []))
        arguments = {MODALITIES[name].argument: value for name, value in media.items() if any(value)}
        images, videos = arguments.pop("images", []), arguments.pop("videos", [])
        return images, videos, arguments.pop("audio", []), arguments

    def media_of(self, conversation: list[dict]) -> dict[str, list[Any]]:
        """Modality -> the media of one conversation, in their order."""
        found: dict[str, list[Any]] = {}
        for turn, message in enumerate(conversation):
            if not isinstance(message, dict) or "role" not in message:
                raise ValueError(f"Message {turn} is no dict with a role and a content.")
            content = message.get("content") or []
            if isinstance(content, dict) and message["role"] in ("system", "user", "assistant"):
                raise ValueError(
                    f"Message {turn} has a dict for its content, where a string or a list of parts belongs."
                )
            for part in content if isinstance(content, (list, tuple)) else ():
                kind = self._kind(turn, part)
                if kind != "text" and (source := part_source(kind, part)) is not None:
                    found.setdefault(kind, []).append(source)
        return found

    def _kind(self, turn: int, part: Any) -> str:
        """A content part's type; raises ValueError for a part that makes no sense."""
        if isinstance(part, str):
            return "text"
        if not isinstance(part, dict):
            raise ValueError(f"Message {turn} has a part that is neither a dict nor a string: {type(part).__name__}.")
        kind = part.get("type", "text")
        if kind == "text" and not isinstance(part.get("text"), str):
            raise ValueError(f"Message {turn} has a text part whose text is {part.get('text')!r}.")
        if kind != "text" and kind not in self.modalities:
            raise UnknownModalityError(
                f'Message {turn} has a part of type {kind!r}, but this model takes "text" and '
                f"{', '.join(self.modalities) or 'nothing else'}.{did_you_mean(kind, self.modalities)}"
            )
        return kind

    def encode_prompt(self, messages: list[dict], tools: list | None = None, **template_kwargs) -> list[int]:
        """Token ids of a chat that is to be answered, one per placeholder; its media are not read."""
        render, messages, marked = self._renderer(messages, tools, template_kwargs)
        text = render(messages, add_generation_prompt=True)
        first, last = ([], []) if self._begins(text) else self._added_tokens
        return [*first, *self._encode(text, [], marked)[0], *last]

    def _renderer(
        self, messages: list[dict], tools: list | None, variables: dict[str, Any]
    ) -> tuple[_Renderer, list[dict], bool]:
        """What renders a chat, the chat, and whether control tokens that were typed are marked in it."""
        template = self._resolve_chat_template(None)
        (messages,), _ = self._normalize_conversations(messages)
        marked = self._types_control_tokens([messages, tools])
        if marked:
            (messages,), tools, _, variables = self.tokenizer._mark_chat_inputs(
                template, [messages], tools, None, variables, True, False
            )
        return _Renderer(template, {**self.tokenizer.special_tokens_map, **variables}, tools), messages, marked

    # --- what the assistant said ---------------------------------------------------------------------------------

    def encode_chat(
        self, messages: list[dict], tools: list | None = None, **template_kwargs
    ) -> tuple[list[int], list[bool]]:
        """Token ids of a whole chat, one per placeholder, and which of them the assistant said (with its stop token).

        By the template's generation tags where it has them, else by where it puts the assistant's words.
        """
        render, messages, marked = self._renderer(messages, tools, template_kwargs)
        text, spans = render.with_tags(messages)
        if spans is None:
            turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
            spans = [self._said(render, messages, turn, text) for turn in turns]
        spans = [(start, self._stop(text, start, end)) for start, end in spans]
        ids, places = self._encode(text, spans, marked)
        said = np.zeros(len(ids), dtype=bool)
        for start, end in spans:
            said |= (places[:, 0] < end) & (places[:, 1] > start)
        first, last = ([], []) if self._begins(text) else self._added_tokens
        return [*first, *ids, *last], [False] * len(first) + said.tolist() + [False] * len(last)

    def _said(self, render: _Renderer, messages: list[dict], turn: int, text: str) -> tuple[int, int]:
        """Where in `text` the assistant's message `turn` stands."""
        if messages[turn].get("tool_calls") and (span := self._called(render, messages, turn, text)) is not None:
            return span
        probe = render(messages[:turn] + [{**messages[turn], "content": _SENTINEL}] + messages[turn + 1 :])
        start, behind = probe.find(_SENTINEL), len(probe) - probe.find(_SENTINEL) - len(_SENTINEL)
        end = len(text) - behind
        if start < 0 or end < start or text[:start] != probe[:start] or text[end:] != probe[len(probe) - behind :]:
            raise ValueError(
                f"The chat template does not write message {turn} of the assistant as it is, so its labels cannot be "
                "placed. Put {% generation %} tags into the template."
            )
        if messages[turn].get("tool_calls") and (stop := self._control_tokens.search(text, end)) is not None:
            end = stop.end()
        return start, end

    def _called(self, render: _Renderer, messages: list[dict], turn: int, text: str) -> tuple[int, int] | None:
        """Where a message with tool calls stands, which no template writes as they are: between what precedes it and
        its last control token. None if the template writes what precedes it otherwise at the end of a chat."""
        if turn == 0:
            return None
        before = render(messages[:turn], add_generation_prompt=True)
        # What ends the chat, but not the message, makes way for a generation prompt.
        through = [render(messages[: turn + 1], add_generation_prompt=prompt) for prompt in (False, True)]
        shared = os.path.commonprefix([text, *through])
        if not shared.startswith(before):
            return None
        tokens = list(self._control_tokens.finditer(shared, len(before)))
        return len(before), tokens[-1].end() if tokens else len(shared)

    def _stop(self, text: str, start: int, end: int) -> int:
        """Where the stop token ends that follows what was said at once; `end` if it is in there already."""
        last = re.search(rf"({self._control_tokens.pattern})\s*$", text[start:end])
        if last is not None and last[1] not in {row["token"] for row in self.modalities.values()}:
            return end
        stop = self._control_tokens.search(text, end)
        return stop.end() if stop is not None and not text[end : stop.start()].strip() else end

    def _begins(self, text: str) -> bool:
        """Whether a text brings its begin token itself."""
        bos = self.tokenizer.bos_token
        return bos is not None and text.startswith(bos)

    @cached_property
    def _added_tokens(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts in front of and behind every text; in front of pieces always stands its begin token."""
        if self.text_settings.get("piecewise"):
            return [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id], []
        ids, plain = self.tokenizer("a")["input_ids"], self.tokenizer("a", add_special_tokens=False)["input_ids"]
        places = range(len(ids) - len(plain) + 1)
        start = next((i for i in places if ids[i : i + len(plain)] == plain), 0)
        return ids[:start], ids[start + len(plain) :]

    def _encode(self, text: str, spans: list[tuple[int, int]], marked: bool) -> tuple[list[int], np.ndarray]:
        """Ids of a rendered chat, as Transformers' `encode_marked_chat` gives them, and the first and last character
        of each `(tokens, 2)`. A tokenizer that does not tell these reads each of the spans by itself."""
        ids: list[int] = []
        places = [np.zeros((0, 2), dtype=np.int64)]
        for start, end, typed in self._pieces(text, spans, marked):
            found, offsets = self._encode_piece(text[start:end], start == 0, typed)
            ids += found
            places.append(np.tile((start, end), (len(found), 1)) if offsets is None else offsets + start)
        return ids, np.concatenate(places)

    def _pieces(self, text: str, spans: list[tuple[int, int]], marked: bool) -> Iterator[tuple[int, int, bool]]:
        """Stretches of a chat that are encoded by themselves, and whether each is a control token that was typed."""
        _, markers = _get_control_token_patterns(tuple(self.tokenizer.added_tokens_encoder))
        edges = [] if self.tokenizer.is_fast else sorted(edge for span in spans for edge in span)
        start = 0
        for match in [*(markers.finditer(text) if marked else ()), None]:
            end = len(text) if match is None else match.start()
            cuts = [start, *(edge for edge in edges if start < edge < end), end]
            for a, b in zip(cuts, cuts[1:], strict=False):
                yield from ((*piece, False) for piece in self._split(text, a, b))
            if match is not None:
                start = match.end()
                if match.group(1) is not None:
                    yield *match.span(1), True

    def _split(self, text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
        """A stretch in pieces: special tokens and what is between them, if text is tokenised piecewise; else as it is."""
        if self.text_settings.get("piecewise"):
            for match in self._piece_ends.finditer(text, start, end):
                yield from ((start, match.start()),) if start < match.start() else ()
                yield from (match.span(),) if match.group() != PIECE_END else ()
                start = match.end()
        if start < end:
            yield start, end

    @cached_property
    def _piece_ends(self) -> re.Pattern:
        return re.compile(f"{PIECE_END}|{self._control_tokens.pattern}")

    def _encode_piece(self, piece: str, first: bool, typed: bool) -> tuple[list[int], np.ndarray | None]:
        """Ids of a piece, and the first and last character of each, if the tokenizer tells."""
        tokenizer = self.tokenizer
        newline = tokenizer.encode("\n", add_special_tokens=False)
        first = first or bool(self.text_settings.get("piecewise"))
        if typed or not tokenizer.is_fast:
            if first and not typed:
                return tokenizer.encode(piece, add_special_tokens=False), None
            ids = _encode_chat_piece(tokenizer, piece, typed, newline)
            if typed and tokenizer.convert_tokens_to_ids(piece) in ids:
                raise ValueError(f"{piece!r} was typed, but the tokenizer cannot write it as plain text.")
            return ids, None
        # Behind a line end, a tokenizer does not put the space that it puts in front of a text.
        for lead in [""] if first else ["\n", ""]:
            encoding = tokenizer(lead + piece, add_special_tokens=False, return_offsets_mapping=True)
            ids, skip = encoding["input_ids"], len(newline) if lead else 0
            if ids[:skip] == newline[:skip]:
                break
        return ids[skip:], np.asarray(encoding["offset_mapping"]).reshape(-1, 2)[skip:] - len(lead)


class _Renderer:
    """Renders messages by one template, with what else the template is given."""

    def __init__(self, template: str, variables: dict[str, Any], tools: list | None):
        self.template, self.variables, self.tools = template, variables, tools

    def __call__(self, messages: list[dict], **kwargs) -> str:
        return self._render(messages, **kwargs)[0][0]

    def with_tags(self, messages: list[dict]) -> tuple[str, list[tuple[int, int]] | None]:
        """The text, and the spans between generation tags, or None for a template without."""
        tags = _GENERATION_TAG.search(self.template) is not None
        (text,), spans = self._render(messages, return_assistant_tokens_mask=tags)
        return text, [tuple(span) for span in spans[0]] if tags else None

    def _render(self, messages: list[dict], **kwargs):
        return render_jinja_template(
            conversations=[messages], tools=self.tools, chat_template=self.template, **self.variables, **kwargs
        )


def part_source(kind: str, part: dict[str, Any]) -> Any:
    """The medium of a content part, or None for a bare placeholder whose medium is given apart."""
    if part.get(kind) is not None:
        return part[kind]
    if part.get("path") is not None:
        return Path(part["path"])
    if part.get("url") is not None:
        return part["url"]
    rest = {key: part[key] for key in ("base64", "bytes", "array", "values", "sampling_rate", "time") if key in part}
    return rest or None
