"""Formats of data sets: each becomes chats."""

import base64
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from anymodality import cli
from modeling_tests import data_files
from modeling_tests.data_files import png, said, write
from modeling_tests.tiny_systems import system
from transformers_anymodality.data import FORMATS, check, convert_records, load, open_records, register_format
from transformers_anymodality.data.formats import missing_files
from transformers_anymodality.modalities import MODALITIES
from transformers_anymodality.systems import SYSTEMS


_own_cache = data_files._own_cache


def media_files(chats: list[dict]) -> dict[str, str]:
    """Path -> modality of what chats refer to."""
    columns = {MODALITIES[name].argument: name for name in MODALITIES}
    return {item: columns[column] for chat in chats for column in chat if column in columns for item in chat[column]}


@pytest.mark.parametrize("name", list(FORMATS))
def test_every_format_becomes_chats_that_pass_the_check(name, processor, tmp_path, capsys):
    known = next((one for one in SYSTEMS if name.startswith(one)), None)
    own = system(known)[1] if known else processor
    chats = list(convert_records(name, [FORMATS[name].example], media_root=tmp_path))
    for file, modality in media_files(chats).items():
        assert Path(file).is_relative_to(tmp_path)
        write(Path(file), modality, own)
    source, output = tmp_path / "source.json", tmp_path / "out" / "chats.jsonl"
    source.write_text(json.dumps([FORMATS[name].example] * 3), encoding="utf-8")
    command = ["data", "convert", name, "--from", str(source), "--output", str(output), "--media-root", str(tmp_path)]
    assert cli.main(command) == 0 and f"{3 * len(chats)} chats" in capsys.readouterr().out
    found = list(open_records(output))
    assert len(found) == 3 * len(chats) and found[0] == chats[0]
    files = len(media_files(chats))
    assert missing_files(output) == (files, [])
    command[6] = str(tmp_path / "elsewhere.jsonl")
    assert cli.main([*command[:-1], str(tmp_path / "nowhere")]) == 0
    said = capsys.readouterr().out
    assert f"{files:,} of their {files:,} files are not there, the first: {tmp_path / 'nowhere'}" in said or not files
    command[6] = str(output)
    assert cli.main(command) == 1 and "exists already" in capsys.readouterr().err
    for chat in found:
        parts = [part for message in chat["messages"] for part in message["content"]]
        places = Counter(part["type"] for part in parts)
        for modality in MODALITIES:
            assert places[modality] == len(chat.get(MODALITIES[modality].argument, []))
    assert not check(found, own).problems
    own.save_pretrained(tmp_path / "processor")
    assert cli.main(["data", "check", str(output), "--processor", str(tmp_path / "processor")]) == 0
    assert list(load(str(output))["messages"]) == [chat["messages"] for chat in found]


@pytest.mark.parametrize("name", list(FORMATS))
def test_every_format_says_what_it_does_not_know(name, tmp_path, capsys):
    for wrong in ({"what": 1}, [1], "a"):
        (tmp_path / "source.json").write_text(json.dumps([FORMATS[name].example, wrong]))
        output = tmp_path / "out.jsonl"
        assert cli.main(["data", "convert", name, "--from", str(tmp_path / "source.json"), "--output", str(output)])
        assert re.search(r"Record 1 (has no|is not of)", capsys.readouterr().err)
        assert not list(tmp_path.glob("out*"))


def test_a_format_of_ones_own_is_listed(capsys):
    @register_format("my_format", help="pairs of mine", example={"q": "a", "a": "b"})
    def convert(record, index, media_root):
        yield {"messages": [{"role": "user", "content": record["q"]}, {"role": "assistant", "content": record["a"]}]}

    try:
        assert cli.main(["data", "convert", "--list"]) == 0
        assert "pairs of mine" in capsys.readouterr().out
        assert len(list(convert_records("my_format", [{"q": "a", "a": "b"}]))) == 1
    finally:
        del FORMATS["my_format"]


def texts(chat: dict) -> list[tuple[str, str]]:
    """Role and what was said, `<name>` for media."""
    return [
        (message["role"], "".join(part.get("text", f"<{part['type']}>") for part in message["content"]))
        for message in chat["messages"]
    ]


def one(name: str, record: dict, **kwargs) -> dict:
    (chat,) = convert_records(name, [record], **kwargs)
    return chat


def test_llava_text_alone_keeps_typed_markers():
    record = said("What does <image> mean in SVG?", "A picture.")
    assert texts(one("llava", record))[0] == ("user", "What does <image> mean in SVG?")
    assert all(part["type"] == "text" for part in one("llava", record)["messages"][0]["content"])


def test_mplug_owl_dialogues():
    text = (
        "You are terse.\nHuman: <image>\nHuman: <image>\nHuman: Which is\nlarger? AI: says who\nAI: The first.\n\n"
        "Human: why?\nAI: Look: it is."
    )
    chat = one("mplug_owl", {"task_type": "llava_sft", "image": ["a.jpg", "b.jpg"], "text": text})
    assert texts(chat) == [
        ("system", "You are terse."),
        ("user", "<image><image>Which is\nlarger? AI: says who"),
        ("assistant", "The first.\n"),
        ("user", "why?"),
        ("assistant", "Look: it is."),
    ]
    plain = one("mplug_owl", {"task_type": "quora_chat_sft", "prompt": "", "text": "Human: say <image>\nAI: <image>"})
    assert texts(plain) == [("user", "say <image>"), ("assistant", "<image>")] and "images" not in plain
    assert {part["type"] for message in plain["messages"] for part in message["content"]} == {"text"}


def test_mplug_owl_text_is_rendered_as_it_was():
    """By mPLUG-Owl's template, a converted dialogue is the text of the record again."""
    own, record = system("mplug_owl")[1], FORMATS["mplug_owl"].example
    text = own.apply_chat_template(one("mplug_owl", dict(record))["messages"]).replace("\ufdd2", "")
    assert text.removeprefix("<s>").removesuffix("</s>") == record["text"]


def test_macaw_finds_the_sound_beside_the_video(tmp_path):
    record = {"id": "7UPGT", "instruction": "what ?", "response": "yes"}
    assert texts(one("macaw_llm", record, media_root=tmp_path))[0] == ("user", "<video>what ?")
    (tmp_path / "7UPGT.wav").touch()
    chat = one("macaw_llm", record, media_root=tmp_path)
    assert texts(chat)[0] == ("user", "<video><audio>what ?") and chat["audio"] == [str(tmp_path / "7UPGT.wav")]
    asked = {"image": "a.jpg", "video": "None", "audio": "None", "instruction": "what ?"}
    assert texts(one("macaw_llm", asked)) == [("user", "<image>what ?")]
    alpaca = one("macaw_llm", {"instruction": "add", "input": "1 2", "output": "3"})
    assert alpaca["messages"][0]["input"] == "1 2" and texts(alpaca) == [("user", "add"), ("assistant", "3")]


def test_x_llm_images_within_the_record_and_rounds_before():
    inline = base64.b64encode(png()).decode()
    (chat,) = convert_records("x_llm_image", [{"image": inline, "caption": "a"}], media_root="R")
    assert chat["images"] == [f"data:;base64,{inline}"]
    record = {**FORMATS["x_llm_vsd"].example, "history_text": "问题：一回复：二问题：三回复：四"}
    assert [text for _, text in texts(one("x_llm_vsd", record))][:4] == ["一", "二", "三", "四"]
