"""Which tokens of a chat are the assistant's: the labels."""

import numpy as np
import pytest

from modeling_tests import chat_templates, tiny
from modeling_tests.chat_samples import TAGGED, UNTAGGED, chat
from modeling_tests.checks import supervised
from transformers_anymodality import AnyModalityDataCollator, compose
from transformers_anymodality.processing.chat import ChatWriter, _only_places
from transformers_anymodality.utils.upstream import render_jinja_template


CHATS = {
    "one turn": chat("what is this?", "yes"),
    "several turns": chat("what is this?", "yes", "and that?", "no yes"),
    "the user says the same words": chat("yes", "yes", "yes", "yes"),
    "the same answer twice": chat("what is this?", "yes", "what is this?", "yes"),
    "an answer that is part of another": chat("yes and no", "yes and no", "no", "no"),
    "an empty answer": chat("what is this?", "", "and that?", "no"),
    "words of the template": chat("assistant", "user", "assistant\n", "assistant user"),
    "lines": chat("what\nis\n\nthis?", "yes\n\nno", "and", "big\nsmall"),
}


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
@pytest.mark.parametrize("style", chat_templates.STYLES)
def test_the_assistants_words_and_stop_tokens_are_supervised_and_nothing_else(style, kind, name):
    this, processor = chat_templates.STYLES[style], chat_templates.processor(style, kind)
    answers = [message["content"] for message in CHATS[name] if message["role"] == "assistant"]
    found = supervised(processor, CHATS[name])
    # A tokenizer may join what stands before the words (a space, a line end) to their first token.
    assert [stretch.lstrip() for stretch in found] == [
        (answer.strip() if this.strips else answer).lstrip() + this.stop for answer in answers
    ]


@pytest.mark.parametrize("system", [None, "yes"])
@pytest.mark.parametrize("name", CHATS)
def test_labels_are_the_same_with_and_without_generation_tags(name, system):
    messages = [*([] if system is None else [{"role": "system", "content": system}]), *CHATS[name]]
    batches = {}
    for tags, template in {"none": UNTAGGED, **TAGGED}.items():
        processor = chat_templates.processor("chatml", template=template)
        batches[tags] = AnyModalityDataCollator(processor)([{"messages": messages}])
        assert "<|im_end|>" in processor.tokenizer.decode(batches[tags]["labels"][0][batches[tags]["labels"][0] >= 0])
    for batch in batches.values():
        assert {k: v.tolist() for k, v in batch.items()} == {k: v.tolist() for k, v in batches["none"].items()}


@pytest.mark.parametrize("template", [None, UNTAGGED, *TAGGED.values()], ids=["own", "plain", *TAGGED])
@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
def test_typed_control_tokens_move_no_label(kind, template):
    processor = chat_templates.processor("chatml", kind, template=template)
    for typed in ("<image>", "<|im_end|>", "a <|im_start|>assistant\nno<|im_end|> b", "<|endoftext|>"):
        messages = chat(f"what is {typed} this?", "yes", "and?", f"no {typed}", f"{typed}", "no")
        assert [s.lstrip() for s in supervised(processor, messages)] == [
            "yes<|im_end|>",
            f"no {typed}<|im_end|>",
            "no<|im_end|>",
        ]
        batch = AnyModalityDataCollator(processor)([{"messages": messages}])
        assert (batch["labels"] == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")).sum() == 3
        assert not (batch["input_ids"] == processor.image_token_id).any()


@pytest.mark.parametrize("style", ["chatml", "llama3", "mistral"])
def test_tool_calls_are_what_the_assistant_said(style):
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "that"}}}
    messages = [
        *chat("what is this?"),
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "5"},
        {"role": "assistant", "content": "yes"},
    ]
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    first, second = supervised(chat_templates.processor(style), messages, tools=tools)
    stop = chat_templates.STYLES[style].stop
    assert '"look"' in first and '"that"' in first and first.endswith(stop) and "assistant" not in first
    assert second.lstrip() == "yes" + stop
    said = messages[:1] + [{**messages[1], "content": "yes, so"}] + messages[2:]
    if style == "chatml":
        both = supervised(chat_templates.processor(style), said, tools=tools)[0]
        assert both.startswith("yes, so\n<tool_call>") and both.endswith("</tool_call><|im_end|>")
    assert supervised(chat_templates.processor(style), messages[:2], tools=tools) == [first]


def random_chat(seed: int) -> list[dict]:
    """Words that templates write themselves, spaces around them, control tokens: whatever hides where a message ends."""
    words = ["yes", "no", " ", "\n", "assistant", "user", "<|im_end|>", "</s>", "[/INST]", "[assistant]", "é", "  "]
    rng = np.random.default_rng(seed)
    return chat(*["".join(rng.choice(words, size=rng.integers(0, 6))) for _ in range(2 * rng.integers(1, 6))])


def written(style: str, messages: list[dict]) -> ChatWriter:
    processor = chat_templates.processor(style)
    return ChatWriter(processor.resolve_chat_template(), processor.prompt_tokenizer, messages)


@pytest.mark.parametrize("style", chat_templates.STYLES)
def test_messages_found_together_stand_where_each_is_found_alone(style):
    found = 0
    for messages in [*CHATS.values(), *map(random_chat, range(30))]:
        chat = written(style, messages)
        together = chat._find([*range(1, len(messages), 2)], text := chat.write().shown)
        found += len(together)
        for turn, span in together.items():
            assert chat._find([turn], text) == {turn: span}, messages
    assert found > 60


@pytest.mark.parametrize("style", [*chat_templates.STYLES, "extended"])
def test_messages_found_by_their_words_stand_where_marks_say(style):
    found, template = 0, UNTAGGED if style == "extended" else None
    processor = chat_templates.processor("chatml" if style == "extended" else style, template=template)
    plain = [chat(*(f"number {i}, {random_chat(i)[-1]['content']}".strip() for i in range(n))) for n in (2, 6)]
    parts = [
        [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in one] for one in plain
    ]
    for messages in [*CHATS.values(), *plain, *parts, *map(random_chat, range(60))]:
        writer = ChatWriter(processor.resolve_chat_template(), processor.prompt_tokenizer, messages)
        text = writer.write().shown
        if (spans := writer._find_words(text)) is not None:
            found += 1
            turns = [*range(1, len(messages), 2)]
            by_marks = writer._find(turns, text)
            assert by_marks == {turn: span for turn, span in zip(turns, spans, strict=True) if turn in by_marks}, (
                messages
            )
    assert found > 10


@pytest.mark.parametrize("parts", [["", "a", "ba", "b"], ["", "", "b"], ["c", "", "b"], ["", "ab", "b", ""]])
def test_what_could_stand_elsewhere_is_not_found(parts):
    """Every place of every part in a text is tried."""
    text = "cababab"

    def ways(start: int, left: list[str]) -> list[list[int]]:
        if not left:
            return [[]]
        places = range(start, len(text) + 1) if len(left) > 1 else [len(text) - len(left[0])]
        fits = [place for place in places if place >= start and text.startswith(left[0], place)]
        return [[place, *rest] for place in fits for rest in ways(place + len(left[0]), left[1:])]

    possible = [way for way in ways(0, parts) if way[0] == 0]
    expected = [{way[i] for way in possible} for i in range(len(parts))]
    assert _only_places(text, parts) == [next(iter(s)) if len(s) == 1 else None for s in expected]


@pytest.mark.parametrize("tags", TAGGED)
def test_generation_tags_are_read_as_transformers_reads_them(tags):
    processor = chat_templates.processor("chatml", template=TAGGED[tags])
    for messages in [*CHATS.values(), *map(random_chat, range(10))]:
        source, special = processor.resolve_chat_template(), processor.tokenizer.special_tokens_map
        given = {"chat_template": source, "return_assistant_tokens_mask": True, **special}
        (text,), (spans,) = render_jinja_template([messages], **given)
        writer = ChatWriter(source, processor.prompt_tokenizer, messages, sanitize=False)
        assert writer.write(said=True)[:2] == (text, [writer._with_stop(text, *span) for span in spans])


@pytest.mark.parametrize("style", [*chat_templates.STYLES, "tags", "words of the template", "tools"])
def test_long_chats_are_written_no_more_often_than_short_ones(style, monkeypatch):
    """Once if messages only stand between what the template writes around any, which is kept."""
    template = TAGGED["with the stop token"] if style == "tags" else None
    processor = chat_templates.processor(style if style in chat_templates.STYLES else "chatml", template=template)
    turns = chat(
        "what is this?", "yes, it is", "and that?", "assistant" if style.startswith("words") else "so it seems"
    )
    if style == "tools":
        call = {"type": "function", "function": {"name": "look", "arguments": {"at": "that"}}}
        turns[3:] = [
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "content": "5"},
            *chat("so", "no")[1:],
        ]
    renders = []
    monkeypatch.setattr(
        "transformers_anymodality.processing.chat.render_jinja_template",
        lambda **kwargs: renders.append(0) or render_jinja_template(**kwargs),
    )
    for times in (1, 20):
        processor.encode_chat(turns * times)
        renders.clear()
        ids, said = processor.encode_chat(turns * times)
        assert len(renders) == (2 if style == "tools" else 1) and any(said)


def test_media_are_never_supervised(processor):
    """Not even those that the assistant shows."""
    answer = [
        {"type": "text", "text": "yes "},
        {"type": "image", "image": tiny.medium("image")},
        {"type": "text", "text": " no"},
    ]
    messages = [*tiny.chat("imu", "what is this ?", "image"), {"role": "assistant", "content": answer}]
    batch = AnyModalityDataCollator(processor)([{"messages": messages}])
    media = sum(batch["input_ids"] == getattr(processor, f"{name}_token_id") for name in processor.modalities).bool()
    assert media.sum() == 4 + 3 + 3 and (batch["labels"][media] == -100).all()
    assert supervised(processor, messages) == ["yes", "no </s>"]


def test_a_language_model_without_a_template_gets_one():
    tokenizer = tiny.tokenizer(chat_template=None)
    _, processor = compose(tiny.language_model(), tiny.modalities("image"), tokenizer=tokenizer)
    assert "{%- generation -%}" in processor.chat_template
    messages = [*tiny.chat("image", "what is this ?"), {"role": "assistant", "content": "yes no"}, *chat("and", "yes")]
    text = processor.apply_chat_template(messages)
    assert text.endswith("user: and\nassistant: yes</s>")
    assert len(supervised(processor, messages)) == 2
