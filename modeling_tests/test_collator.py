"""Training batches: what is supervised, what is cut, and what is refused."""

import copy

import numpy as np
import pytest
import torch

from modeling_tests import chat_templates, tiny
from modeling_tests.checks import supervised
from transformers_anymodality import AnyModalityDataCollator, compose
from transformers_anymodality.data.records import name_of
from transformers_anymodality.processing.chat import ChatWriter, _only_places, extend_template
from transformers_anymodality.utils.upstream import render_jinja_template


# The same words with and without tags, in three ways of tagging.
UNTAGGED = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}{{ message.content + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TURN = "{{ message.content + '<|im_end|>' + '\n' }}"
TAGGED = {
    "with the stop token": "{% if message.role == 'assistant' %}{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}",
    "without the stop token": "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}{% endgeneration %}{{ '<|im_end|>\n' }}",
}
TAGGED = {name: UNTAGGED.replace(TURN, tags + "{% else %}" + TURN + "{% endif %}") for name, tags in TAGGED.items()}


def chat(*turns: str | list, system: str | None = None) -> list[dict]:
    """User and assistant in turns."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
    return messages if system is None else [{"role": "system", "content": system}, *messages]


# --- what the assistant said ---------------------------------------------------------------------------------------

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


# --- batches -------------------------------------------------------------------------------------------------------


def samples() -> list[dict]:
    first = [*tiny.chat("image", "what is this ?"), {"role": "assistant", "content": "yes no"}]
    second = [*tiny.chat("what", seed=1), {"role": "assistant", "content": "no"}]
    third = [*tiny.chat("audio", "and", "imu", "image", "image", seed=2), {"role": "assistant", "content": "big"}]
    return [{"messages": messages} for messages in (first, second, third)]


def test_a_batch_pads_on_the_right_and_is_its_samples_put_together(processor):
    collator = AnyModalityDataCollator(processor, pad_to_multiple_of=8)
    batch, alone = collator(samples()), [AnyModalityDataCollator(processor)([sample]) for sample in samples()]
    assert batch["input_ids"].shape[1] % 8 == 0
    for i, row in enumerate(alone):
        length = row["input_ids"].shape[1]
        for name, fill in (("input_ids", processor.tokenizer.pad_token_id), ("labels", -100), ("attention_mask", 0)):
            assert torch.equal(batch[name][i, :length], row[name][0]) and (batch[name][i, length:] == fill).all()
    for name in set(batch) - {"input_ids", "labels", "attention_mask"}:
        assert torch.equal(batch[name], torch.cat([row[name] for row in alone if name in row]))
    assert all(
        value.dtype == torch.int64
        for name, value in batch.items()
        if name in ("input_ids", "labels", "attention_mask")
    )


def test_the_model_learns_from_a_batch(shared):
    model, processor = shared
    batch = AnyModalityDataCollator(processor)(samples())
    with torch.no_grad():
        assert torch.isfinite(model(**batch).loss)


def test_media_may_stand_in_columns(processor):
    image, walk = tiny.medium("image"), tiny.medium("imu")
    inside = chat(
        [{"type": "image", "image": image}, {"type": "text", "text": " what "}, {"type": "imu", "imu": walk}], "yes"
    )
    bare = chat([{"type": "image"}, {"type": "text", "text": " what "}, {"type": "imu"}], "yes")
    expected = {k: v.tolist() for k, v in AnyModalityDataCollator(processor)([{"messages": inside}]).items()}
    for columns in (
        {"images": [image], "imu": [walk]},
        {"images": image, "imu": walk},
        {"images": (image,), "imu": walk.tolist()},
    ):
        sample = {"messages": bare, **columns, "audio": [], "depth": None, "id": 5}
        assert {k: v.tolist() for k, v in AnyModalityDataCollator(processor)([sample]).items()} == expected


def test_rows_as_a_data_set_gives_them(processor):
    """Arrow gives every part every key, None where it has none, and every message too."""

    def part(**given):
        return {"type": None, "text": None, "image": None, "path": None, **given}

    messages = [
        {
            "role": "user",
            "content": [part(type="image", image=tiny.medium("image")), part(type="text", text=" what ")],
            "tool_calls": None,
        },
        {"role": "assistant", "content": [part(type="text", text="yes")], "tool_calls": None},
    ]
    sample = {"messages": messages, "tools": None, "images": None}
    before = repr(sample)
    batch = AnyModalityDataCollator(processor)([sample])
    plain = chat([{"type": "image", "image": tiny.medium("image")}, {"type": "text", "text": " what "}], "yes")
    expected = AnyModalityDataCollator(processor)([{"messages": plain}])
    assert {k: v.tolist() for k, v in batch.items()} == {k: v.tolist() for k, v in expected.items()}
    assert repr(sample) == before


def test_openai_image_urls_are_images(processor):
    import base64
    import io

    Image = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    Image.fromarray(tiny.medium("image")).save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    messages = chat([{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": " what "}], "yes")
    batch = AnyModalityDataCollator(processor)([{"messages": messages}])
    assert torch.equal(batch["pixel_values"], processor(images=tiny.medium("image"))["pixel_values"])


# --- samples that are too long -------------------------------------------------------------------------------------


def long_samples() -> list[dict]:
    """Of 6, 9 and 14 tokens by this order of parts; the images' are 3 each."""
    first = chat("yes", "no")
    second = chat([{"type": "text", "text": "yes "}, {"type": "image", "image": tiny.medium("image", 1)}], "no")
    third = chat(
        [{"type": "image", "image": tiny.medium("image", 2)}, {"type": "text", "text": " yes no yes no "}], "no yes"
    )
    return [{"messages": messages} for messages in (first, second, third)]


def lengths(processor, rows: list[dict]) -> list[int]:
    return AnyModalityDataCollator(processor)(rows)["attention_mask"].sum(-1).tolist()


def test_overlong_samples_are_an_error_that_names_them(processor):
    whole = lengths(processor, long_samples())
    collator = AnyModalityDataCollator(processor, max_length=max(whole))
    assert collator(long_samples())["attention_mask"].sum(-1).tolist() == whole
    with pytest.raises(
        ValueError,
        match=rf"Sample 2 of this batch \(.*\) has {max(whole)} tokens, 3 of them media; max_length is {max(whole) - 1}",
    ):
        AnyModalityDataCollator(processor, max_length=max(whole) - 1)(long_samples())


def test_overlong_samples_are_dropped_with_their_media_and_counted(processor):
    rows = long_samples()
    whole = lengths(processor, rows)
    collator = AnyModalityDataCollator(processor, max_length=whole[1], on_overlong="drop")
    batch = collator([rows[2], rows[1], rows[0], rows[2]])
    expected = AnyModalityDataCollator(processor)([rows[1], rows[0]])
    assert {k: v.tolist() for k, v in batch.items()} == {k: v.tolist() for k, v in expected.items()}
    assert collator.dropped == 2
    with pytest.raises(ValueError, match="Every sample of the batch is longer than max_length"):
        collator([rows[2]])


def test_truncation_takes_text_only(processor):
    rows = long_samples()
    whole = lengths(processor, rows)
    ids = AnyModalityDataCollator(processor)([rows[2]])["input_ids"][0].tolist()
    for limit in range(whole[2] - 1, 1, -1):
        collator = AnyModalityDataCollator(processor, max_length=limit, on_overlong="truncate_text")
        try:
            batch = collator([rows[2]])
        except ValueError as error:
            assert f"max_length is {limit}" in str(error)
            break
        assert batch["input_ids"][0].tolist() == ids[:limit] and len(batch["pixel_values"]) == 1
        assert (batch["input_ids"] == processor.image_token_id).sum() == 3
        assert (batch["labels"] >= 0).any()
    else:
        pytest.fail("a sample without any supervised word left was accepted")
    # A medium behind the text that is cut stays whole.
    tail = chat("yes", [{"type": "text", "text": "no yes no yes "}, {"type": "image", "image": tiny.medium("image")}])
    (length,) = lengths(processor, [{"messages": tail}])
    batch = AnyModalityDataCollator(processor, max_length=length - 3, on_overlong="truncate_text")(
        [{"messages": tail}]
    )
    assert (batch["input_ids"] == processor.image_token_id).sum() == 3 and batch["input_ids"].shape[1] == length - 3
    with pytest.raises(ValueError, match="on_overlong must be"):
        AnyModalityDataCollator(processor, on_overlong="truncate")


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sample, message",
    [
        (
            {"images": [1]},
            r"Sample 0 of this batch has no `messages` \(its columns: images\).*remove_unused_columns=False",
        ),
        ({}, r"Sample 0 of this batch has no `messages` \(its columns: none\).*remove_unused_columns=False"),
        ([1, 2], "Sample 0 of this batch has no `messages`.*list"),
        ({"messages": []}, "Sample 0 of this batch has no messages"),
        ({"messages": None}, "Sample 0 of this batch has no messages"),
        ({"messages": "what is this ?"}, r"Sample 0 of this batch \('what is this \?'\) has no messages"),
        ({"messages": chat("yes")}, r"Sample 0 of this batch \('yes'\) has no assistant text"),
        (
            {"messages": chat("<image>", "yes"), "images": [0]},
            r"Sample 0 of this batch \('<image>'\) has 0 <image> placeholders, but 1 media of 'image'",
        ),
        (
            {"messages": chat([{"type": "image"}], "yes")},
            r"Sample 0 of this batch \('yes'\) has 1 <image> placeholders, but 0 media",
        ),
        (
            {"messages": chat([{"type": "image"}, {"type": "image"}], "yes"), "images": [0]},
            "2 <image> placeholders, but 1 media",
        ),
        ({"messages": chat([{"type": "smell"}], "yes")}, "part of type 'smell'"),
    ],
)
def test_samples_that_make_no_sense(processor, sample, message):
    with pytest.raises(ValueError, match=message):
        AnyModalityDataCollator(processor)([sample])


def test_media_of_a_modality_that_the_model_lacks():
    processor = chat_templates.processor("chatml")
    with pytest.raises(
        ValueError,
        match=r"Sample 1 of this batch \('yes'\) has media of 'audio', but this model does not have that modality",
    ):
        AnyModalityDataCollator(processor)(
            [{"messages": chat("yes", "no")}, {"messages": chat("yes", "no"), "audio": [np.ones(9)]}]
        )
    with pytest.raises(ValueError, match="part of type 'audio', but this model takes"):
        AnyModalityDataCollator(processor)([{"messages": chat([{"type": "audio", "path": "a.wav"}], "no")}])


def test_media_in_two_places(processor):
    image = tiny.medium("image")
    with pytest.raises(ValueError, match="both in its messages and in a column"):
        AnyModalityDataCollator(processor)(
            [{"messages": chat([{"type": "image", "image": image}], "yes"), "images": [image]}]
        )


def test_templates_that_change_what_is_said_ask_for_tags():
    template = chat_templates.CHATML.replace("message.content + '<|im_end|>'", "message.content|upper + '<|im_end|>'")
    processor = chat_templates.processor("chatml", template=template)
    batch = AnyModalityDataCollator(processor)([{"messages": chat("what", "yes", "and", "no")}])
    kept = batch["input_ids"][batch["labels"] >= 0]
    assert processor.tokenizer.decode(kept) == "YES<|im_end|>NO<|im_end|>"
    twice = "{% for message in messages %}{{ message.content + ' or ' + message.content + eos_token }}{% endfor %}"
    with pytest.raises(ValueError, match="changes the text of message 1 of the assistant.*generation"):
        AnyModalityDataCollator(chat_templates.processor("chatml", template=twice))(
            [{"messages": chat("what", "yes")}]
        )


@pytest.mark.parametrize("instead", ["'so it ' + 'seems'", "messages[0].content"])
def test_words_that_a_template_says_by_itself_are_not_the_assistants(instead):
    template = UNTAGGED.replace("message.content +", f"(message.content if loop.first else {instead}) +")
    processor = chat_templates.processor("chatml", template=template)
    with pytest.raises(ValueError, match="changes the text of message 1 of the assistant"):
        AnyModalityDataCollator(processor)([{"messages": chat("so it seems", "so it seems")}])


def test_samples_are_left_as_they_were(processor):
    rows = [*samples(), *long_samples()]
    before = repr(copy.deepcopy(rows))
    AnyModalityDataCollator(processor, max_length=12, on_overlong="drop")(rows)
    assert repr(rows) == before


def test_templates_of_tokenizers_without_offsets(processor, monkeypatch):
    """Labels where the tokenizer does not tell which characters a token stands for."""
    messages = [*tiny.chat("image", "what is this ?"), {"role": "assistant", "content": "yes no"}, *chat("yes", "no")]
    expected = processor.encode_chat(messages)
    monkeypatch.setattr(type(processor.tokenizer), "is_fast", property(lambda self: False))
    assert processor.encode_chat(messages) == expected
    untagged = extend_template(
        tiny.CHAT_TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", ""), {"image": "<image>"}
    )
    monkeypatch.setattr(processor, "chat_template", untagged)
    assert processor.encode_chat(messages) == expected


@pytest.mark.parametrize(
    "record, name",
    [
        ({"id": "blue", "images": ["a.png"]}, "id 'blue'"),
        ({"source": "llava", "images": [{"path": "a.png", "bytes": None}], "messages": chat("yes")}, "'a.png'"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "path": "b.png"}]}]}, "'b.png'"),
        ({"messages": chat([{"type": "image", "image": np.ones(3)}, {"type": "text", "text": "who ?"}])}, "'who ?'"),
        ({"conversations": [{"from": "human", "value": "x" * 99}]}, f"'{'x' * 77}...'"),
    ],
)
def test_samples_of_a_batch_are_found_by_what_they_hold(record, name):
    assert name_of(3, record, of_batch=True) == f"Sample 3 of this batch ({name})"
    assert name_of(3, record) == "Sample 3" + f" ({name})" * ("id" in record)
    assert name_of(3, {}, of_batch=True) == "Sample 3 of this batch"
