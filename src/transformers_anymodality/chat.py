"""Chats: the template that also writes media placeholders, and which tokens of a chat the assistant said.

A language model's own template is kept word for word; what is put in front of it only turns content parts into one
string, so a chat of plain strings renders as before.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils.chat_template_utils import render_jinja_template

from .modalities import MODALITIES


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
{%- if message.content is defined and message.content is not string and message.content is sequence -%}
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
"""

_GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Stands for what an assistant said, to see where a template puts it. No template has a reason to change it.
_SENTINEL = "\ufdd0assistant\ufdd1"


def extend_template(template: str | None, tokens: dict[str, str]) -> str:
    """A chat template that writes `tokens[modality]` for content parts of that type."""
    table = "{" + ", ".join(f"'{name}': '{token}'" for name, token in sorted(tokens.items())) + "}"
    return _EXTENSION.replace("MEDIA_TOKENS", table) + (template or FALLBACK_TEMPLATE)


class ChatMixin:
    """The part of the processor that deals with messages."""

    def apply_chat_template(
        self,
        conversation: list,
        chat_template: str | None = None,
        tokenize: bool = False,
        return_assistant_tokens_mask: bool = False,
        sanitize_control_tokens: bool | None = None,
        **kwargs,
    ) -> Any:
        """As Transformers' own, for parts of every modality: `{"type": "imu", "path": "walk.csv"}` (or `"url"`,
        `"base64"`, or the medium itself under the modality's name).

        Control tokens that a user typed, placeholders among them, are text (`sanitize_control_tokens`, by default
        whenever there are any).
        """
        if sanitize_control_tokens is None:
            wanted = tokenize and not return_assistant_tokens_mask
            sanitize_control_tokens = bool(wanted and self._types_control_tokens(conversation))
        return super().apply_chat_template(
            conversation,
            chat_template,
            tokenize=tokenize,
            return_assistant_tokens_mask=return_assistant_tokens_mask,
            sanitize_control_tokens=sanitize_control_tokens,
            **kwargs,
        )

    def _types_control_tokens(self, conversation: Any) -> bool:
        """Whether a text in the conversation holds a special token."""
        if isinstance(conversation, str):
            return self._control_tokens.search(conversation) is not None
        if isinstance(conversation, dict):
            keys = ("content", "text") if "type" not in conversation or conversation["type"] == "text" else ()
            return any(self._types_control_tokens(conversation[key]) for key in keys if key in conversation)
        if isinstance(conversation, (list, tuple)):
            return any(self._types_control_tokens(entry) for entry in conversation)
        return False

    @cached_property
    def _control_tokens(self) -> re.Pattern:
        special = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        return re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")

    def _multimodal_inputs_from_conversations(self, conversations, audio_loading_params=None, load_audio_from_video=False):
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
            content = message.get("content") or []
            for part in content if isinstance(content, (list, tuple)) else ():
                kind = part.get("type", "text") if isinstance(part, dict) else "text"
                if kind in self.modalities:
                    if (source := _source(kind, part)) is not None:
                        found.setdefault(kind, []).append(source)
                elif kind != "text":
                    raise ValueError(
                        f'Message {turn} has a part of type {kind!r}, but this model takes "text" and '
                        f"{', '.join(self.modalities) or 'nothing else'}."
                    )
        return found

    # --- what the assistant said ---------------------------------------------------------------------------------

    def encode_chat(
        self, messages: list[dict], tools: list | None = None, **template_kwargs
    ) -> tuple[list[int], list[bool]]:
        """Token ids of a whole chat, one per placeholder, and which of them the assistant said (with its stop token).

        By the template's generation tags where it has them, else by where it puts the assistant's words.
        """
        template = self._resolve_chat_template(None)
        (messages,), _ = self._normalize_conversations(messages)
        marked = self._types_control_tokens(messages)
        if marked:
            (messages,), tools, _, template_kwargs = self.tokenizer._mark_chat_inputs(
                template, [messages], tools, None, template_kwargs, True, False
            )
        render = _Renderer(template, {**self.tokenizer.special_tokens_map, **template_kwargs}, tools)
        text, spans = render.with_tags(messages)
        if spans is None:
            spans = [self._said(render, messages, i, text) for i, m in enumerate(messages) if m["role"] == "assistant"]
        bos = self.tokenizer.bos_token
        special = not (marked or (bos is not None and text.startswith(bos)))
        if marked or not self.tokenizer.is_fast:
            return self._encode_pieces(text, spans)
        encoding = self.tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
        starts, ends = np.asarray(encoding["offset_mapping"]).reshape(-1, 2).T
        said = np.zeros(len(starts), dtype=bool)
        for start, end in spans:
            said |= (starts < end) & (ends > start)
        return list(encoding["input_ids"]), said.tolist()

    def _said(self, render: _Renderer, messages: list[dict], turn: int, text: str) -> tuple[int, int]:
        """Where in `text` the assistant's message `turn` stands: from its first character through its stop token."""
        probe = render(messages[:turn] + [{**messages[turn], "content": _SENTINEL}] + messages[turn + 1 :])
        start, behind = probe.find(_SENTINEL), len(probe) - probe.find(_SENTINEL) - len(_SENTINEL)
        end = len(text) - behind
        if start < 0 or end < start or text[:start] != probe[:start] or text[end:] != probe[len(probe) - behind :]:
            raise ValueError(
                f"The chat template does not write message {turn} of the assistant as it is, so its labels cannot be "
                "placed. Put {% generation %} tags into the template."
            )
        # The stop token follows at once; only tool calls stand between.
        stop = self._control_tokens.search(text, end)
        if stop is not None and (messages[turn].get("tool_calls") or not text[end : stop.start()].strip()):
            end = stop.end()
        return start, end

    def _encode_pieces(self, text: str, spans: list[tuple[int, int]]) -> tuple[list[int], list[bool]]:
        """For text with marked control tokens or tokenizers without offsets: each span is encoded on its own."""
        edges = [0, *(edge for span in sorted(spans) for edge in span), len(text)]
        ids: list[int] = []
        said: list[bool] = []
        for i, (start, end) in enumerate(zip(edges, edges[1:], strict=False)):
            if start < end:
                piece = self.tokenizer(
                    [text[start:end]], add_special_tokens=False, sanitize_control_tokens=True, return_attention_mask=False
                )["input_ids"][0]
                ids += piece
                said += [i % 2 == 1] * len(piece)
        return ids, said


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


def _source(kind: str, part: dict[str, Any]) -> Any:
    """The medium of a content part, or None for a bare placeholder whose medium is given apart."""
    if part.get(kind) is not None:
        return part[kind]
    if part.get("path") is not None:
        return Path(part["path"])
    if part.get("url") is not None:
        return part["url"]
    rest = {key: part[key] for key in ("base64", "bytes", "array", "values", "sampling_rate", "time") if key in part}
    return rest or None
