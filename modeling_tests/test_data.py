"""Data as people have it: records, formats, files, mixtures; what `check` finds and `show` shows."""

import base64
import io
import json
import re
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from transformers import Trainer, TrainingArguments

from anymodality import cli
from modeling_tests import chat_templates, tiny
from modeling_tests.checks import supervised
from modeling_tests.tiny_systems import system
from transformers_anymodality import AnyModalityDataCollator, MediaError, set_trainable
from transformers_anymodality.data import (
    FORMATS,
    check,
    convert_records,
    load,
    look,
    mixture,
    normalize,
    open_records,
    read_chat,
    register_format,
)
from transformers_anymodality.data.formats import missing_files
from transformers_anymodality.data.records import encode_chats
from transformers_anymodality.modalities import MODALITIES
from transformers_anymodality.systems import SYSTEMS


datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def saved(processor, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("processor")
    processor.save_pretrained(folder)
    return str(folder)


def write(file: Path, modality: str, processor=None, seed: int = 0) -> None:
    """A medium as a file, in the format that its suffix says."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix in (".png", ".jpg"):
        Image.fromarray(tiny.medium("image", seed)).save(file)
    elif file.suffix == ".wav":
        soundfile.write(file, tiny.medium("audio", seed), 16_000)
    elif file.suffix == ".mp4":
        import av

        with av.open(str(file), "w") as container:
            stream = container.add_stream("libx264", rate=5)
            stream.width, stream.height, stream.pix_fmt = 48, 40, "yuv420p"
            for frame in tiny.medium("video", seed):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    elif file.suffix == ".csv":
        rows = tiny.medium("imu", seed)
        np.savetxt(file, rows, delimiter=",", comments="", header="ax,ay,az,gx,gy,gz")
    elif modality in ("depth", "thermal", "imu"):
        np.save(file, tiny.medium(modality, seed))
    else:
        np.save(
            file, MODALITIES[modality].dummy(processor.sub_processor(modality), processor.modalities[modality].options)
        )


def lines(file: Path, *records) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def said(*turns: str, **columns) -> dict:
    """A LLaVA record."""
    turns = [{"from": ("human", "gpt")[i % 2], "value": turn} for i, turn in enumerate(turns)]
    return {"conversations": turns, **columns}


def png(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(tiny.medium("image", seed)).save(buffer, "PNG")
    return buffer.getvalue()


def same(one: dict, other: dict) -> bool:
    return {k: v.tolist() for k, v in one.items()} == {k: v.tolist() for k, v in other.items()}


# --- records -----------------------------------------------------------------------------------------------------------


def test_markers_stand_exactly_where_they_stood():
    record = said("one <image> two\n<audio><image>", "yes <imu>", "<image>", "no", image=["a", "b"], id=7)
    assert normalize(record) == {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "one "},
                    {"type": "image"},
                    {"type": "text", "text": " two\n"},
                    {"type": "audio"},
                    {"type": "image"},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "yes "}, {"type": "imu"}]},
            {"role": "user", "content": [{"type": "image"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "no"}]},
        ],
        "images": ["a", "b"],
        "id": 7,
    }


def test_every_modality_has_its_marker_and_its_columns():
    for name in MODALITIES:
        spec = MODALITIES[name]
        for column in {spec.argument, name, f"{name}s"}:
            made = normalize(said(f"a {spec.token} b", "c", **{column: "file"}))
            assert made[spec.argument] == ["file"] and {"type": name} in made["messages"][0]["content"]


def test_typed_markers_are_words_in_messages():
    record = {"messages": [{"role": "user", "content": "<image>"}], "images": ["a"]}
    assert normalize(record)["messages"] == record["messages"]
    assert normalize(record, markers=True)["messages"][0]["content"] == [{"type": "image"}]


def test_relative_paths_are_put_into_the_media_root(tmp_path):
    parts = [
        {"type": "image", "path": "a.png"},
        {"type": "image", "image": "b.png"},
        {"type": "text", "text": "c.png"},
    ]
    given = ["d.png", "/e.png", "data:,f", "https://g/h.png", {"path": "i.png"}, {"path": "j", "bytes": b"k"}]
    record = {"messages": [{"role": "user", "content": parts}], "images": given, "videos": [["1.png", "2.png"]]}
    made = normalize(record, media_root="R")
    content = made["messages"][0]["content"]
    assert [content[0]["path"], content[1]["image"], content[2]["text"]] == ["R/a.png", "R/b.png", "c.png"]
    assert made["images"] == ["R/d.png", *given[1:4], {"path": "R/i.png"}, given[5]]
    assert made["videos"] == [["R/1.png", "R/2.png"]]
    assert record["images"] is given and given[0] == "d.png"  # left as it was


def test_a_record_is_read_with_its_media_in_their_parts(processor):
    """Some may be in their parts and others in columns, in the order of the bare parts."""
    parts = [{"type": "image", "path": "0.png"}, {"type": "image"}, {"type": "text", "text": "?"}, {"type": "image"}]
    record = {"messages": [{"role": "user", "content": parts}], "images": ["1.png", "2.png"], "id": 7}
    for own in (processor, None):
        chat = read_chat(3, record, own, "R").checked()
        assert chat.where == "Sample 3 (id 7)" and chat.media == {"image": [Path("R/0.png"), "R/1.png", "R/2.png"]}
        assert chat.messages[0]["content"] == [
            {"type": "image", "path": "R/0.png"},
            {"type": "image", "image": "R/1.png"},
            {"type": "text", "text": "?"},
            {"type": "image", "image": "R/2.png"},
        ]
    assert parts[1] == {"type": "image"}  # left as it was
    flat = read_chat(0, {"image": "a.png", "audio": ["b.wav"], "text": "no medium"}, question="what ?").checked()
    assert flat.media == {"image": ["a.png"], "audio": ["b.wav"]}
    assert [part["type"] for part in flat.messages[0]["content"]] == ["image", "audio", "text"]


def test_all_that_is_wrong_with_a_record_is_told(processor):
    """Each once, whatever finds it first."""
    record = {**said("<image><image><audio>", image="a.png"), "imu": ["b.csv", "c.csv"]}
    chat = read_chat(0, record, processor)
    encode_chats([chat], processor)
    found = [(problem.kind, problem.modality) for problem in chat.problems]
    assert found == [("wrong_count", "audio"), ("wrong_count", "image"), ("wrong_count", "imu"), ("no_answer", None)]
    with pytest.raises(ValueError, match="Sample 0 has 1 <audio> placeholders, but 0 media of 'audio'"):
        chat.checked()
    assert read_chat(0, 5, processor).problems[0].kind == "broken_record"


@pytest.mark.parametrize(
    "record, message",
    [
        (said("a", "b", image="x", images=["y"]), "Media of 'image' are in two columns, 'images' and 'image'"),
        ({"conversations": []}, "has no messages"),
        ({"conversations": [{"from": "humn", "value": "a"}]}, "from 'humn'. Did you mean 'human'"),
        ({"conversations": [{"from": "human", "value": None}]}, "turn 0 whose value is not a string"),
        ({"conversations": ["a"]}, "turn 0 that is not a dict"),
    ],
)
def test_records_that_make_no_sense(processor, record, message):
    with pytest.raises(ValueError, match=message):
        normalize(record)
    with pytest.raises(ValueError, match=f"Sample 0 ?:? .*{message}"):
        AnyModalityDataCollator(processor)([record])


# --- labels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
@pytest.mark.parametrize("style", chat_templates.STYLES)
def test_labels_of_conversations(style, kind):
    """Each answer and its stop token, whatever the template; no medium, no question, no control token else."""
    this, own = chat_templates.STYLES[style], chat_templates.processor(style, kind)
    image, walk = tiny.medium("image"), tiny.medium("imu")
    record = said("<image>what is this?", "yes", "and <imu>that?", "no <image>", images=[image, image], imu=[walk])
    batch = AnyModalityDataCollator(own)([record])
    media = (batch["input_ids"] == own.image_token_id) | (batch["input_ids"] == own.imu_token_id)
    assert media.sum() == 3 + 4 + 3 and (batch["labels"][media] == -100).all()
    found = supervised(own, **normalize(record))
    assert [stretch.strip() for stretch in found] == ["yes" + this.stop, "no", this.stop]
    messages = normalize(record)["messages"]
    assert same(batch, AnyModalityDataCollator(own)([{"messages": messages, "images": [image] * 2, "imu": [walk]}]))


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_labels_of_the_systems_own_templates(name):
    own = system(name)[1]
    modality = next(iter(own.modalities))
    medium = MODALITIES[modality].dummy(own.sub_processor(modality), own.modalities[modality].options)
    record = {
        **said(f"{MODALITIES[modality].token}what is this?", "It is red."),
        MODALITIES[modality].argument: [medium],
    }
    learned = "".join(piece.text for piece in look(record, own).pieces if piece.labelled)
    assert "It is red." in learned and "what" not in learned and learned.strip() != "It is red."


# --- formats -----------------------------------------------------------------------------------------------------------


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


# --- files -------------------------------------------------------------------------------------------------------------


def shard(file: Path, *samples: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w") as tar:
        for i, sample in enumerate(samples):
            for suffix, content in sample.items():
                info = tarfile.TarInfo(f"{i:04}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return file


def make_source(kind: str, folder: Path) -> Path:
    """Three samples with an image each, as a file of that kind."""
    if kind == "messages":
        part = {"type": "image", "path": "0.png"}
        chat = [{"role": "user", "content": [part]}, {"role": "assistant", "content": "yes"}]
        return lines(folder / "a.jsonl", *[{"messages": chat}] * 2, {"messages": [*chat, *chat], "imu": None})
    if kind == "conversations":
        return lines(folder / "a.jsonl", *(said("<image> what", "yes", image=f"{i}.png", id=i) for i in range(3)))
    if kind == "json":
        file = folder / "a.json"
        file.write_text(json.dumps([said("<image>", "no", images=[f"{i}.png"]) for i in range(3)]))
        return file
    if kind == "parquet":
        chat = [
            {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "what"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "no"}]},
        ]
        rows = [{"messages": chat, "images": [{"bytes": png(i), "path": None}]} for i in range(3)]
        made = datasets.Dataset.from_list(rows).cast_column("images", datasets.List(datasets.Image()))
        made.to_parquet(folder / "a.parquet")
        return folder / "a.parquet"
    if kind == "captions":
        return shard(folder / "a.tar", *({"txt": b"no", "png": png(i)} for i in range(3)))
    chat = json.dumps(said("<image> and <imu>", "yes", image="forgotten.png")).encode()
    walk = b"ax,ay,az,gx,gy,gz\n" + b"1,2,3,4,5,6\n" * 40
    return shard(folder / "a.tar", *({"json": chat, "png": png(i), "imu.csv": walk} for i in range(3)))


@pytest.mark.parametrize("kind", ["messages", "conversations", "json", "parquet", "captions", "shards"])
def test_streaming_equals_map_style(kind, processor, tmp_path):
    for i in range(3):
        write(tmp_path / f"{i}.png", "image", seed=i)
    source = make_source(kind, tmp_path)
    whole, streamed = load(source, media_root=tmp_path), load(source, media_root=tmp_path, streaming=True)
    assert isinstance(whole, datasets.Dataset) and isinstance(streamed, datasets.IterableDataset)
    assert list(whole) == list(streamed) and len(whole) == 3 and whole.features == streamed.features
    collator = AnyModalityDataCollator(processor)
    batch = collator(list(whole))
    assert len(batch["pixel_values"]) == (4 if kind == "messages" else 3)
    # The collator reads records as they are, too.
    assert same(batch, AnyModalityDataCollator(processor, media_root=tmp_path)(list(open_records(source))))
    assert not check(source, processor, media_root=tmp_path).problems


def test_several_files_patterns_and_data_sets(tmp_path):
    for name in "ab":
        lines(tmp_path / f"{name}.jsonl", said("what", name))
    assert len(load(f"{tmp_path}/*.jsonl")) == len(load([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])) == 2
    made = datasets.Dataset.from_list([said("what", "yes", image="a.png")])
    assert load(made, media_root="R")[0]["images"] == ["R/a.png"]
    made.save_to_disk(tmp_path / "saved")
    assert list(load(tmp_path / "saved")) == list(load(tmp_path / "saved", streaming=True)) == list(load(made))
    with pytest.raises(FileNotFoundError, match="nowhere.jsonl does not exist"):
        load("nowhere.jsonl")
    with pytest.raises(ValueError, match="several kinds"):
        load(["a.jsonl", "b.parquet"])


@pytest.mark.parametrize("streaming", [False, True])
def test_mixtures_have_the_proportions_asked_for(streaming, processor, tmp_path):
    write(tmp_path / "0.png", "image")
    text = lines(
        tmp_path / "text.jsonl",
        *[{"messages": [{"role": "user", "content": "what"}, {"role": "assistant", "content": "yes"}]}] * 300,
    )
    images = lines(tmp_path / "images.jsonl", *[said("<image>", "no", image="0.png")] * 300)
    stored = make_source("parquet", tmp_path)
    settings = dict(streaming=streaming, media_root=tmp_path, stopping_strategy="first_exhausted", seed=3)
    mixed = list(mixture({"text": text, "images": images}, {"text": 3, "images": 1}, **settings))
    found = Counter(sample["source"] for sample in mixed)
    assert found["text"] == 300 and abs(found["images"] / len(mixed) - 0.25) < 0.05
    assert mixed == list(mixture({"text": text, "images": images}, {"text": 0.75, "images": 0.25}, **settings))
    settings["stopping_strategy"] = "all_exhausted"
    three = list(mixture([text, images, stored], **settings))
    assert len(three) >= 600 and "source" not in three[0]
    batch = AnyModalityDataCollator(processor)(three[:12])
    assert len(batch["pixel_values"]) == sum(len(sample.get("images") or []) for sample in three[:12]) > 0
    for weights in ({"text": 1}, [1], [1, -1], [0, 0]):
        with pytest.raises(ValueError, match="[Ww]eight"):
            mixture({"text": text, "images": images}, weights)


def test_a_stream_of_unknown_columns_cannot_be_mixed():
    stream = datasets.IterableDataset.from_generator(lambda: iter([said("what", "yes")]))
    with pytest.raises(ValueError, match="does not tell its columns"):
        mixture([stream, stream])


def test_the_stock_trainer_reads_streamed_mixtures(tmp_path):
    """As it reads them whole: the same losses in the same order."""
    write(tmp_path / "0.png", "image")
    images = lines(
        tmp_path / "images.jsonl", *[said("<image> what", word, image="0.png") for word in ("yes", "no") * 6]
    )
    text = lines(tmp_path / "text.jsonl", *[said("what", word) for word in ("yes", "no") * 6])
    losses = {}
    for streaming in (False, True):
        model, processor = tiny.composite()
        set_trainable(model, "aligners", verbose=False)
        data = mixture([images, text], streaming=streaming, media_root=tmp_path, seed=5)
        arguments = TrainingArguments(
            str(tmp_path / "run"),
            max_steps=4,
            per_device_train_batch_size=2,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            remove_unused_columns=False,
            use_cpu=True,
            accelerator_config={"dispatch_batches": False},
            train_sampling_strategy="sequential",
        )
        trainer = Trainer(model, arguments, AnyModalityDataCollator(processor), data)
        trainer.train()
        losses[streaming] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses[True]) == 4 and losses[True] == losses[False]


# --- check -------------------------------------------------------------------------------------------------------------


def broken(folder: Path) -> dict[str, object]:
    """Kind of problem -> a record that has it and no other."""
    write(folder / "good.png", "image")
    (folder / "cut.png").write_bytes(png()[:-200])
    (folder / "empty.wav").touch()
    return {
        "good": said("<image> what", "yes", image="good.png"),
        "missing_file": said("<image> what", "yes", image="gone.png"),
        "unreadable_media": said("<image> what", "yes", image="cut.png"),
        "unreadable_media again": said("<audio>", "yes", audio="empty.wav"),
        "wrong_count": said("<image><image> what", "yes", image="good.png"),
        "wrong_count again": said("what", "yes", image="good.png"),
        "wrong_count of none": said("<image> what", "yes"),
        "wrong_count typed": {
            "messages": [{"role": "user", "content": "<image> what"}, {"role": "assistant", "content": "yes"}],
            "images": ["good.png"],
        },
        "no_answer": said("<image> what", image="good.png", id="asked"),
        "too_long": said("<image>" + " what" * 30, "yes", image="good.png"),
        "broken_record": said("<image>", "yes", image="good.png") | {"conversations": [{"from": "it", "value": "a"}]},
        "broken_record again": {"text": "no chat"},
        "unknown_modality": {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_check_finds_what_is_wrong(workers, saved, tmp_path, capsys):
    records = broken(tmp_path)
    file = lines(tmp_path / "train.jsonl", *records.values())
    with file.open("a") as more:
        more.write('\n{"messages": [\n')
    report = tmp_path / "report.jsonl"
    command = ["data", "check", str(file), "--processor", saved, "--media-root", str(tmp_path), "--max-length", "30"]
    assert cli.main([*command, "--report", str(report), "--workers", str(workers)]) == 1
    output = capsys.readouterr()
    assert "14 samples with" in output.out and "13 have problems" in output.out and "100%" in output.err
    problems = [json.loads(line) for line in report.read_text().splitlines()]
    kinds = [kind.split()[0] for kind in records] + ["broken_record"]
    assert {p["sample"]: p["kind"] for p in problems} == {i: k for i, k in enumerate(kinds) if k != "good"}
    assert len(problems) == 13
    for kind in set(kinds) - {"good"}:
        assert kind in output.out
    by_kind = {p["kind"]: p for p in reversed(problems)}
    assert "gone.png' does not exist" in by_kind["missing_file"]["message"] and by_kind["missing_file"]["modality"]
    assert "cut.png" in by_kind["unreadable_media"]["message"]
    assert "Sample 4 has 2 <image> placeholders, but 1 media of 'image'" in by_kind["wrong_count"]["message"]
    assert "data convert markers" in next(p["message"] for p in problems if p["sample"] == 7)
    assert by_kind["no_answer"]["id"] == "asked"
    assert "max_length is 30" in by_kind["too_long"]["message"]
    assert "Line 15 is not JSON" in problems[-1]["message"]
    assert "samples 4, 5, 6, 7; the first has 2 <image> placeholders" in " ".join(output.out.split())
    assert "sample 8 (id 'asked') has no assistant text" in output.out and "sample 1: image 0: " in output.out
    assert "(its columns: text). A chat is in `messages`" in next(p["message"] for p in problems if p["sample"] == 11)


def test_check_passes_what_is_right(processor, saved, tmp_path, capsys):
    record = broken(tmp_path)["good"]
    file = lines(tmp_path / "train.jsonl", *[record] * 3)
    assert cli.main(["data", "check", str(file), "--processor", saved, "--media-root", str(tmp_path)]) == 0
    length = AnyModalityDataCollator(processor, media_root=tmp_path)([record])["input_ids"].shape[1]
    out = capsys.readouterr().out
    assert f"3 samples with 3 media: none have problems.\n  tokens per sample: median {length}," in out
    assert cli.main(["data", "check", str(lines(tmp_path / "none.jsonl")), "--processor", saved]) == 1
    assert "none.jsonl: no samples." in capsys.readouterr().out
    assert cli.main(["data", "check", str(tmp_path / "gone.jsonl"), "--processor", saved]) == 1


def test_check_agrees_with_the_collator(processor, tmp_path):
    records = broken(tmp_path)
    bad = {
        problem.sample
        for problem in check(list(records.values()), processor, media_root=tmp_path, max_length=30).problems
    }
    for i, record in enumerate(records.values()):
        collator = AnyModalityDataCollator(processor, max_length=30, media_root=tmp_path)
        if i in bad:
            with pytest.raises(ValueError, match="Sample 0"):
                collator([record])
        else:
            collator([record])


# --- show --------------------------------------------------------------------------------------------------------------


def everything(folder: Path) -> dict:
    """A record with a medium of each modality."""
    files = {
        "image": "a.png",
        "video": "a.mp4",
        "audio": "a.wav",
        "imu": "a.csv",
        "depth": "a.npy",
        "thermal": "b.npy",
    }
    for modality, file in files.items():
        write(folder / file, modality)
    first = said("<image> what <video> is <audio>", "yes no", "and <imu><depth> that ? <thermal>", "big")
    return {**first, **files, "id": "all"}


def test_show_prints_labels_and_writes_a_page(processor, saved, tmp_path, capsys):
    record = everything(tmp_path)
    file = lines(tmp_path / "train.jsonl", said("what", "yes"), record)
    page = tmp_path / "page" / "sample.html"
    command = ["data", "show", str(file), "--processor", saved, "--media-root", str(tmp_path), "--index", "1"]
    assert cli.main([*command, "--html", str(page)]) == 0
    out = capsys.readouterr().out
    batch = AnyModalityDataCollator(processor, media_root=tmp_path)([record])
    labelled = int((batch["labels"] >= 0).sum())
    assert f"Sample 1 (id 'all'): {batch['labels'].numel()} tokens, {labelled} of them learned; 1 x image" in out
    assert re.findall(r"⟦(.*?)⟧", out) == [" yes no </s>", " big </s>"] and "\x1b" not in out
    assert re.findall(r"\[(\w+): \d+ tokens\]", out) == [
        "image",
        "video",
        "audio",
        "imu",
        "depth",
        "thermal",
    ]
    html = page.read_text(encoding="utf-8")
    assert html.count("class=learned") == labelled and html.count("class=medium") == 6
    for kind, count in {
        "<audio controls src='data:audio/wav": 1,
        "<video controls src='data:video/mp4": 1,
        "<svg": 1,
    }.items():
        assert html.count(kind) == count
    assert html.count("src='data:image/") == 4 and "class=wrong" not in html  # image, frames, depth, thermal
    assert html.count("<polyline") == 6 and "http" not in html.replace("http-equiv", "")
    for encoded in re.findall(r"src='data:image/\w+;base64,([^']+)'", html):
        Image.open(io.BytesIO(base64.b64decode(encoded))).load()
    sound = re.search(r"audio/wav;base64,([^']+)'", html)[1]
    waveform, rate = soundfile.read(io.BytesIO(base64.b64decode(sound)))
    assert rate == 16_000 and len(waveform) == len(tiny.medium("audio"))


def test_show_uses_colours_in_a_terminal(saved, tmp_path, capsys, monkeypatch):
    file = lines(tmp_path / "train.jsonl", said("what", "yes"))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert cli.main(["data", "show", str(file), "--processor", saved]) == 0
    assert "\x1b[1;32m yes </s>\x1b[0m" in capsys.readouterr().out


def test_show_says_what_is_wrong(saved, tmp_path, capsys):
    file = lines(tmp_path / "train.jsonl", said("what", "yes"), said("<image>", "yes", image="gone.png"))
    assert cli.main(["data", "show", str(file), "--processor", saved, "--index", "1"]) == 1
    assert "Sample 1: image 0: 'gone.png' does not exist" in capsys.readouterr().err
    assert cli.main(["data", "show", str(file), "--processor", saved, "--index", "2"]) == 1
    assert "has 2 samples" in capsys.readouterr().err


@pytest.mark.parametrize("kind, dog", [("bytes", "狗 and 🐕"), ("metaspace", "dog and dog")])
def test_shown_pieces_are_the_text(kind, dog):
    """Also of characters that take several tokens."""
    own = chat_templates.processor("chatml", kind)
    record = said(f"what is {dog} <image> this? <b>&", f"yes, {dog} no", image=[tiny.medium("image")])
    shown = look(record, own)
    text = "".join(piece.text for piece in shown.pieces)
    assert f"what is {dog} <image> this? <b>&" in text and "�" not in text
    assert "".join(piece.text for piece in shown.pieces if piece.labelled).strip() == f"yes, {dog} no<|im_end|>"


# --- bad samples in training -------------------------------------------------------------------------------------------


def test_bad_samples_are_errors_that_name_them(processor, tmp_path):
    records = broken(tmp_path)
    collator = AnyModalityDataCollator(processor, media_root=tmp_path)
    message = r"Sample 1 of this batch \('gone.png'\): image 0: .*gone.png' does not exist.*media_root.*--media-root"
    with pytest.raises(MediaError, match=message) as caught:
        collator([records["good"], records["missing_file"]])
    assert isinstance(cause := caught.value.__cause__, FileNotFoundError) and cause.__cause__ is None
    with pytest.raises(
        ValueError,
        match=r"Sample 2 of this batch \('good.png'\) has 2 <image> placeholders, but 1 media of 'image'. Each content",
    ):
        collator([records["good"], records["good"], records["wrong_count"]])
    with pytest.raises(ValueError, match=r"Sample 0 of this batch \(id 'asked'\) has no assistant text"):
        collator([records["no_answer"]])
    with pytest.raises(ValueError, match='on_error must be "error" or "skip"'):
        AnyModalityDataCollator(processor, on_error="ignore")


def test_bad_samples_are_skipped_and_counted_on_request(processor, tmp_path, caplog):
    records = broken(tmp_path)
    collator = AnyModalityDataCollator(processor, media_root=tmp_path, on_error="skip", max_length=30)
    other = said("<image> and", "no", image="good.png")
    expected = AnyModalityDataCollator(processor, media_root=tmp_path)([records["good"], other])
    bad = [record for kind, record in records.items() if kind != "good"]
    assert same(collator([bad[0], records["good"], *bad[1:], other]), expected) and collator.skipped == len(bad)
    assert caplog.text.count("Samples are skipped") <= 1
    # A batch of bad samples alone is the last good sample again, so that no process waits for another.
    assert same(collator([bad[0]]), AnyModalityDataCollator(processor, media_root=tmp_path)([records["good"]]))
    assert collator.skipped == len(bad) + 1 and collator.dropped == 0
    with pytest.raises(
        ValueError, match="No sample can be used, of this batch or before it. The first problem: Sample 0"
    ):
        AnyModalityDataCollator(processor, media_root=tmp_path, on_error="skip")([bad[0]])
    (tmp_path / "good.png").unlink()
    with pytest.raises(ValueError, match="of this batch or before it. The first problem: Sample 0.*good.png"):
        collator([records["good"], bad[0]])


def test_a_missing_decoder_is_no_bad_sample(processor, monkeypatch):
    def read(*args, **kwargs):
        raise ImportError("install it")

    monkeypatch.setattr(type(MODALITIES["image"]), "read", read)
    with pytest.raises(ImportError, match="install it"):
        AnyModalityDataCollator(processor, on_error="skip")([said("<image>", "yes", image=[tiny.medium("image")])])


def test_skipped_samples_are_counted_over_worker_processes(processor, tmp_path):
    records = broken(tmp_path)
    samples = [records["good"], records["missing_file"]] * 8
    collator = AnyModalityDataCollator(processor, media_root=tmp_path, on_error="skip")
    batches = list(torch.utils.data.DataLoader(samples, batch_size=4, num_workers=2, collate_fn=collator))
    assert [len(batch["input_ids"]) for batch in batches] == [2] * 4 and collator.skipped == 8
