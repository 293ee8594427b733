"""Training batches: their tensors, samples that are too long, and what is refused."""

import copy

import numpy as np
import pytest
import torch

from modeling_tests import chat_templates, tiny
from modeling_tests.chat_samples import UNTAGGED, chat
from transformers_anymodality import AnyModalityDataCollator
from transformers_anymodality.data.records import name_of
from transformers_anymodality.processing.chat import extend_template


# --- batches --------------------------------------------------------------------------------------------------------


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


# --- samples that are too long --------------------------------------------------------------------------------------


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
    # Then the last sample that fits takes its place.
    assert collator([rows[2]])["input_ids"].tolist() == collator([rows[1]])["input_ids"].tolist()
    assert collator.dropped == 3
    collator = AnyModalityDataCollator(processor, max_length=whole[1], on_overlong="drop")
    with pytest.raises(ValueError, match="Every sample is longer than max_length"):
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


# --- what is refused ------------------------------------------------------------------------------------------------


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
