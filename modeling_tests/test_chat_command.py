"""Conversations on one cache, and `anymodality chat` fed by lines."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import GenerationConfig

from anymodality import cli
from modeling_tests import chat_templates, tiny
from modeling_tests.checks import Calls
from transformers_anymodality.data import load
from transformers_anymodality.inference.conversation import Conversation, _Streamer


NEW = {"max_new_tokens": 6, "do_sample": False}
TURNS = [("image", "imu", "what is this ?"), ("and that ?",), ("image", "this", "image", "and that ?"), ("yes",)]


def whole(model, processor, messages) -> str:
    """The answer to a chat without a cache."""
    inputs = tiny.inputs(processor, messages)
    output = model.generate(**inputs, **NEW)[0, inputs["input_ids"].shape[1] :]
    return processor.decode(output, skip_special_tokens=True).strip()


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2", "bloom", "mamba"])
def test_answers_are_those_without_a_cache_and_media_are_encoded_once(model_type):
    model, processor = tiny.composite(model_type, tiny.modalities("image", "imu"))
    calls = Calls(model.image_tower)
    conversation, encoded = Conversation(model, processor, "small", **NEW), []
    for turn, parts in enumerate(TURNS):
        content = tiny.chat(*parts, seed=10 * turn)[0]["content"]
        messages = [*conversation.messages, {"role": "user", "content": content}]
        calls.items.clear()
        answer = conversation.say(content)
        encoded.append(sum(calls.items))
        assert answer == whole(model, processor, messages)
    assert [message["role"] for message in conversation.messages] == ["system", *["user", "assistant"] * 4]
    assert encoded == ([1, 1, 3, 3] if model_type == "mamba" else [1, 0, 2, 0])


def test_a_template_that_writes_the_past_otherwise_costs_the_cache_and_changes_nothing():
    model, processor = tiny.composite(settings=tiny.modalities("image"))
    forgetful = "{% if messages[0].role == 'user' and messages|length > 2 %}{{ 'small ' }}{% endif %}"
    calls, conversation = Calls(model.image_tower), Conversation(model, processor, **NEW)
    conversation.say(tiny.chat("image", "what is this ?")[0]["content"])
    processor.chat_template = forgetful + processor.chat_template
    conversation.say("and that ?")
    assert sum(calls.items) == 2
    assert conversation.messages[-1]["content"] == whole(model, processor, conversation.messages[:-1])


def test_what_fails_or_is_stopped_leaves_a_conversation_that_goes_on(shared, monkeypatch):
    model, processor = shared
    conversation, generate = Conversation(model, processor, **NEW), model.generate
    conversation.say("what is this ?")
    before = list(conversation.messages)
    with pytest.raises(ValueError, match="gone.png"):
        conversation.say([{"type": "image", "path": "gone.png"}])
    monkeypatch.setattr(model.config.get_text_config(), "max_position_embeddings", 20)
    with pytest.raises(ValueError, match="the model reads 20"):
        conversation.say("yes " * 20)
    monkeypatch.undo()
    assert conversation.messages == before

    def stopped(*args, streamer, **kwargs):
        generate(*args, streamer=streamer, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "generate", stopped)
    said = []
    conversation.say("and that ?", said.append)
    monkeypatch.undo()
    assert conversation.messages[-1] == {"role": "assistant", "content": "".join(said).strip()}
    assert conversation.say("yes") == whole(model, processor, conversation.messages[:-1])
    conversation.reset()
    assert conversation.messages == []


def test_prompts_are_those_of_the_chat_template(shared):
    for style in ("chatml", "llama3"):
        processor = chat_templates.processor(style)
        for said in ("what is this ?", "what is <image> ? <|im_end|>"):
            messages = [{"role": "user", "content": said}]
            (ids,) = tiny.inputs(processor, messages)["input_ids"].tolist()
            assert processor.encode_prompt(messages) == ids


def test_streams_end_where_answers_end(shared):
    _, processor = shared
    given = []
    streamer = _Streamer(type(processor)(processor.tokenizer, text_settings={"stop": ["###"]}), given.append)
    for piece in ("  yes #", "# and", " no ##", "# and more", " and more"):
        streamer.on_finalized_text(piece)
    streamer.on_finalized_text("", stream_end=True)
    assert "".join(given).rstrip() == streamer.text == "yes ## and no"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    model, processor = tiny.composite(settings=tiny.modalities("image", "imu"))
    model.generation_config = GenerationConfig(**NEW, eos_token_id=2, pad_token_id=0)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    Image.fromarray(tiny.medium("image")).save(folder / "a photo.png")
    np.save(folder / "walk.npy", tiny.medium("imu"))
    (folder / "broken.png").write_bytes(b"no image")
    return folder, model, processor


def test_the_command(saved, monkeypatch, capsys):
    folder, model, processor = saved
    monkeypatch.chdir(folder)
    lines = [
        "/image 'a photo.png'",
        "/imu walk.npy",
        "what is this ?",
        "/image broken.png",
        "/image gone.png",
        "/image",
        "/imagine a.png",
        "/image https://127.0.0.1/a.png",
        "and <image> that ?",
        "/help",
        "/save chats.jsonl",
        "/reset",
        "/save chats.jsonl",
        "this",
        "/save chats.jsonl",
        "/quit",
        "never read",
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert cli.main(["chat", "model"]) == 0
    out, err = capsys.readouterr()
    for message in (
        "(3 tokens)",
        "(4 tokens)",
        "broken.png' is not an image",
        "gone.png' does not exist",
        "image 1: ",
        "/image needs the path",
        "Did you mean 'image'?",
        "allow_urls",
        "/imu PATH",
        "4 messages appended",
        "The conversation is empty",
    ):
        assert message in err, message
    assert "image 0" not in err
    chats = [json.loads(line)["messages"] for line in (folder / "chats.jsonl").read_text().splitlines()]
    assert [len(chat) for chat in chats] == [4, 2]
    assert [part["type"] for part in chats[0][0]["content"]] == ["image", "imu", "text"]
    assert out.splitlines() == [message["content"] for chat in chats for message in chat[1::2]]
    for chat in chats:
        for turn in range(1, len(chat), 2):
            assert chat[turn]["content"] == whole(model, processor, chat[:turn])
    monkeypatch.chdir("/")
    read = list(load(folder / "chats.jsonl"))
    assert torch.isfinite(tiny.inputs(processor, read[0]["messages"][:1])["pixel_values"]).all()
