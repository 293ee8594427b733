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
from typing import Any

import numpy as np

from ..utils.upstream import (
    encode_chat_piece,
    mark_chat,
    mark_pattern,
    render_jinja_template,
    template_variables,
)
from .messages import MessagesMixin


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


class ChatMixin(MessagesMixin):
    """The part of the processor that writes and encodes chats."""

    tokenizer: Any
    text_settings: dict[str, Any]

    def apply_chat_template(
        self,
        conversation: list,
        chat_template: str | None = None,
        tools: list | None = None,
        documents: list[dict] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_tensors: str | None = None,
        return_dict: bool = False,
        processor_kwargs: dict[str, Any] | None = None,
        sanitize_control_tokens: bool | None = None,
        **variables,
    ) -> Any:
        """As Transformers' own, for parts of every modality: `{"type": "imu", "path": "walk.csv"}` (or `"url"`,
        `"base64"`, or the medium itself under the modality's name).

        Control tokens that a user typed, placeholders among them, are text (`sanitize_control_tokens`, by default
        whenever there are any; not together with `return_assistant_tokens_mask`).

        Raises:
            ValueError: no chat, a part that makes no sense, or options that exclude each other.
            TypeError: what neither the template nor the processor reads.
        """
        mask = return_assistant_tokens_mask
        if continue_final_message and (add_generation_prompt or mask):
            raise ValueError("`continue_final_message` goes with neither a generation prompt nor an assistant's mask.")
        if sanitize_control_tokens and (mask or not tokenize):
            raise ValueError("`sanitize_control_tokens` needs `tokenize`, and no assistant's mask.")
        if mask and not self.tokenizer.is_fast:
            raise ValueError("This tokenizer does not tell where its tokens stand, so there is no assistant's mask.")
        template = self._resolve_chat_template(chat_template)
        read = template_variables(template)
        # What the template does not read is the processor's, as in Transformers, where it once stood here.
        settings = {**{key: variables.pop(key) for key in set(variables) - read}, **(processor_kwargs or {})}
        chats, several = self._normalize_conversations(conversation)
        media = self._media_of_all(chats) if tokenize else {}
        if sanitize_control_tokens is None:
            given = [chats, tools, documents]
            sanitize_control_tokens = tokenize and not mask and self._types_control_tokens(given)
        if sanitize_control_tokens:
            chats, tools, documents, variables = mark_chat(
                self.tokenizer, template, chats, tools, documents, variables
            )
        prompts, spans = render_jinja_template(
            conversations=chats,
            tools=tools,
            documents=documents,
            chat_template=template,
            return_assistant_tokens_mask=mask,
            continue_final_message=continue_final_message,
            add_generation_prompt=add_generation_prompt,
            **{**self.tokenizer.special_tokens_map, **variables},
        )
        if not tokenize:
            return prompts if several else prompts[0]
        settings = {"return_tensors": return_tensors, **settings}
        if self._begins(prompts[0]):
            settings["add_special_tokens"] = False
        if sanitize_control_tokens:
            settings["sanitize_control_tokens"] = True
        if mask:
            settings |= {"return_offsets_mapping": True, "return_tensors": None}
        inputs = self(text=prompts if several else prompts[0], **media, **settings)
        if mask:
            places = inputs.pop("offset_mapping")
            inputs["assistant_masks"] = [
                _within(spans, row).tolist() for spans, row in zip(spans, places, strict=True)
            ]
            inputs.convert_to_tensors(tensor_type=return_tensors)
        return inputs if return_dict else inputs["input_ids"]

    def _resolve_chat_template(self, name: str | None) -> str:
        """The template of that name; a template as it is; the processor's own for None."""
        own = self.chat_template if isinstance(self.chat_template, dict) else {"default": self.chat_template}
        if name is not None:
            return own.get(name, name)
        if own.get("default") is None:
            names = ", ".join(key for key in own if own[key])
            raise ValueError(
                "This processor does not have a chat template to take by itself; give one as chat_template=..."
                + (f", or the name of one: {names}." if names else ".")
            )
        return own["default"]

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
            messages, tools, variables = mark_chat(self.tokenizer, template, messages, tools, variables)
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
        said = _within(spans, places)
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
        if last is not None and last[1] not in {own.token for own in self.modalities.values()}:
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
        markers = mark_pattern(self.tokenizer)
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
            ids = encode_chat_piece(tokenizer, piece, typed, newline)
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


def _within(spans: list[tuple[int, int]], places: Any) -> np.ndarray:
    """Which tokens, by their first and last characters `(tokens, 2)`, are in one of the spans: `(tokens,)` bool."""
    places = np.asarray(places).reshape(-1, 2)
    inside = np.zeros(len(places), dtype=bool)
    for start, end in spans:
        inside |= (places[:, 0] < end) & (places[:, 1] > start)
    return inside
