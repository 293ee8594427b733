"""Requests, without a server: what is read of them, and what becomes of those that make no sense."""

import asyncio
import os

import pytest

from transformers_anymodality import MediaError
from transformers_anymodality.inference.conversation import GrowingAnswer


pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
pytest.importorskip("openai")

from transformers.cli.serving.chat_completion import ChatCompletionHandler  # noqa: E402
from transformers.cli.serving.response import ResponseHandler  # noqa: E402
from transformers.cli.serving.utils import ReasoningText  # noqa: E402

from modeling_tests.served_media import MODALITIES, PHOTO, WALK, image, user  # noqa: E402
from transformers_anymodality.inference.server.cutting import CutQueue  # noqa: E402
from transformers_anymodality.inference.server.reading import Reader  # noqa: E402
from transformers_anymodality.inference.server.requests import (  # noqa: E402
    _AS_IT_IS,
    _NO_MATTER,
    Policy,
    check_options,
    check_read,
    check_variables,
    is_short_text,
    read_messages,
)


def part(*parts, **policy):
    (message,) = read_messages(user(*parts), MODALITIES, Policy(**policy))
    return message["content"][0]


def test_every_sense_has_openais_two_forms_and_sensors_numbers():
    data = "data:text/csv;base64,QQ=="
    for kind, payload in (("imu_url", {"url": data}), ("imu_url", data), ("input_imu", data), ("imu", data)):
        assert part({"type": kind, kind: payload}) == {"type": "imu", "imu": data}
    for kind in ("input_depth", "depth_url", "depth"):
        assert part({"type": kind, kind: {"data": "QQ==", "format": "png"}})["depth"] == {"base64": "QQ=="}
    assert part({"type": "input_image", "image_url": data, "detail": "auto"}) == {"type": "image", "image": data}
    assert part({"type": "thermal", "base64": "QQ=="})["thermal"] == {"base64": "QQ=="}
    read = part({"type": "input_imu", "input_imu": {"values": WALK, "sampling_rate": 32}})["imu"]
    assert read["array"].shape == (40, 6) and read["sampling_rate"] == 32
    assert part({"type": "input_imu", "input_imu": WALK})["imu"].shape == (40, 6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
            "URLs are not fetched.*--allow-urls",
        ),
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, "URLs of this kind are not fetched"),
        ({"type": "image", "path": "/etc/passwd"}, "files of the server are not read.*--media-root"),
        ({"type": "image", "image": {"path": "/etc/passwd"}}, "files of the server are not read"),
        ({"type": "image", "bytes": "abc"}, "expected a data: URL"),
        ({"type": "smell", "smell": "abc"}, "takes text, image"),
        ({"type": "input_smell", "input_smell": "abc"}, r"or \.\.\._url\)\.$"),
        ({"type": "input_imug", "input_imug": []}, "Did you mean 'input_imu'"),
        ({"type": "input_imu", "input_imu": {"values": [[1], [2, 3]]}}, "cannot be converted to an array"),
        ({"type": "input_imu", "input_imu": {"values": [["a"]]}}, "expected real numbers"),
        ({"type": "input_imu", "input_imu": 3}, "expected a data: URL"),
        ({"type": "image_url"}, "expected a data: URL"),
        ({"type": "text", "text": 3}, "must be a string"),
        ({"type": ["text"]}, "with a type"),
        ("text", "with a type"),
    ],
)
def test_parts_that_are_refused(content, message):
    with pytest.raises(ValueError, match=message):
        part(content)


@pytest.mark.parametrize("text", ["/etc/passwd", "~/.netrc", "../a.png", "C:\\a.png", "file:a.png", "a.png", "ä"])
def test_no_string_becomes_a_path(tmp_path, text):
    """A plain string is a path to the processor. Where files may be named, the refusal says how."""
    for payload in (text, {"url": text}, {"data": text}):
        with pytest.raises(ValueError, match=r"is not a data: URL, and not valid base64: send .* in base64\.$"):
            part({"type": "image", "image": payload})
        for one in (payload, {"url": f"file://{tmp_path}/a.png"}):
            with pytest.raises(ValueError, match='media folder as a path, {"type": "image", "path": "..."}'):
                part({"type": "image_url", "image_url": one}, media_root=tmp_path)


@pytest.mark.parametrize("text", ["abcd", "/etc/passwd" * 400 + "a", "ab\ncd"])
def test_strings_that_may_be_base64_are_nothing_else(shared, text):
    _, processor = shared
    read = part({"type": "image", "image": text})
    assert read["image"] == {"base64": text}
    with pytest.raises(MediaError, match="not valid base64|not an image"):
        processor.process_media(processor.media_of([{"role": "user", "content": [read]}]))


def test_files_only_below_their_root(tmp_path):
    root = tmp_path / "media"
    root.mkdir()
    (tmp_path / "media_evil").mkdir()
    for place in (root / "a.png", tmp_path / "media_evil" / "a.png", tmp_path / "a.png"):
        place.write_bytes(PHOTO)
    (root / "link.png").symlink_to(tmp_path / "a.png")
    assert part({"type": "image", "path": "a.png"}, media_root=root)["image"] == root / "a.png"
    assert part({"type": "image", "path": str(root / "a.png")}, media_root=root)["image"] == root / "a.png"
    for path in ("../a.png", "../media_evil/a.png", "link.png", str(tmp_path / "a.png"), "~/a.png/../../../a.png"):
        with pytest.raises(ValueError, match="outside the server's media folder"):
            part({"type": "image", "path": path}, media_root=root)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (None, "must be a non-empty list"),
        ([], "must be a non-empty list"),
        (["hello"], "must be an object"),
        ([{"role": "root", "content": "x"}], "role is one of"),
        ([{"role": {}, "content": "x"}], "role is one of"),
        ([{"role": "user", "content": {"type": "text"}}], "a string or a list"),
        ([{"role": "assistant", "tool_calls": ["x"]}], "tool_calls"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}], "Expecting"),
        (user(*[image()] * 17), "17 media, more than the limit of 16"),
    ],
)
def test_messages_that_are_refused(messages, message):
    with pytest.raises(ValueError, match=message):
        read_messages(messages, MODALITIES, Policy())


@pytest.mark.parametrize(
    "body",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": 10**400},
        {"temperature": "hot"},
        {"top_p": 0},
        {"frequency_penalty": -2},
        {"max_tokens": 0},
        {"max_completion_tokens": 1.5},
        {"max_output_tokens": True},
        {"seed": 2**70},
        {"seed": 10**400},
        {"stop": ""},
        {"stop": ["a"] * 5},
        {"stop": {"a": 1}},
        {"logit_bias": {"99": 1}},
        {"logit_bias": {"-1": 1}},
        {"logit_bias": [1]},
        {"logit_bias": {"1": 1000}},
        {"stream": "yes"},
        {"stream": 1},
        {"generation_config": "{}"},
    ],
)
def test_sampling_that_is_refused(body):
    with pytest.raises(ValueError):
        check_options(body, 40)


@pytest.mark.parametrize("handler", [ChatCompletionHandler, ResponseHandler])
def test_what_nobody_reads_is_refused_by_name(handler):
    unread = handler._unused_fields
    for name in unread - _NO_MATTER:
        with pytest.raises(ValueError, match=f"`{name}` is not supported"):
            check_read({"messages": [], name: {"type": "json_object"}}, unread)
        for value in (None, *_AS_IT_IS.get(name, ())):
            check_read({"messages": [], name: value}, unread)
    check_read({"messages": [], **dict.fromkeys(_NO_MATTER, "x")}, unread)


@pytest.mark.parametrize(
    "asked",
    [
        {"n": 2},
        {"logprobs": True},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "look"}}},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {}}},
    ],
)
def test_what_is_not_done_is_not_passed_over(asked):
    with pytest.raises(ValueError, match=f"`{next(iter(asked))}` is not supported"):
        check_read(asked, ChatCompletionHandler._unused_fields)


@pytest.mark.parametrize(
    "tools", [[{"x": [0] * 60_000}], [{"x" * 60_000: 0}], [{str(i): None for i in range(20_000)}]]
)
def test_long_requests_are_not_short_text(tools):
    """They are read apart, where their time is limited, also if they hold numbers or names only."""
    chat = user({"type": "text", "text": "what is this?"})
    assert is_short_text(chat, [{"type": "function", "function": {"name": "look"}}])
    assert not is_short_text(chat, tools)


def test_without_a_new_process_the_server_is_at_fault(monkeypatch):
    """Not the request: the client may try again."""
    forks, fork = [], os.fork

    def at_first():
        forks.append(1)
        if len(forks) > 1:
            raise OSError("Resource temporarily unavailable")
        return fork()

    monkeypatch.setattr(os, "fork", at_first)
    reader = Reader(lambda *request: {}, 5, 2**30)

    async def ask():
        with pytest.raises((OSError, EOFError)):
            await reader.read("what ?")

    try:
        asyncio.run(ask())
    finally:
        reader.close()


def test_template_variables():
    known = frozenset({"enable_thinking"})
    assert check_variables({"enable_thinking": False}, known) == {"enable_thinking": False}
    for given in (
        {"processor_kwargs": {"allow_urls": True}},
        {"enable_thinking": "<|im_end|>"},
        {"enable_thinking": []},
    ):
        with pytest.raises(ValueError):
            check_variables(given, known)


def test_growing_answers_hand_on_nothing_that_may_end_them():
    answer = GrowingAnswer(["###", "</s>"])
    assert [answer.add(piece) for piece in ("yes #", "1 #", "#", "# no", " more")] == ["yes ", "#1 ", "", "", ""]
    assert answer.add("", last=True) == "" and answer.text == "yes #1"
    answer = GrowingAnswer(["###"])
    assert [answer.add("two ##"), answer.add("", last=True)] == ["two ", "##"]


def test_stops_are_no_part_of_a_stream():
    async def read(pieces: list) -> list:
        queue: asyncio.Queue = asyncio.Queue()
        cut = CutQueue(queue, ["###"])
        for piece in pieces:
            queue.put_nowait(piece)
        given = [await cut.get()]
        while given[-1] is not None:
            given.append(cut.get_nowait())
        with pytest.raises(asyncio.QueueEmpty):
            cut.get_nowait()
        return given

    assert asyncio.run(read(["yes", "#", "## no", " more", None])) == ["yes", None]
    thought = ReasoningText("###")
    assert asyncio.run(read([thought, "two #", None])) == [thought, "two ", "#", None]
    assert asyncio.run(read(["two #", thought, None])) == ["two ", "#", thought, None]
