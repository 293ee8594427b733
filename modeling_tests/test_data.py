"""Data as people have it: records, labels, files, mixtures."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from transformers import Trainer, TrainingArguments

from modeling_tests import chat_templates, data_files, tiny
from modeling_tests.checks import supervised
from modeling_tests.data_files import lines, png, said, same, write
from modeling_tests.tiny_systems import system
from transformers_anymodality import AnyModalityDataCollator, set_trainable
from transformers_anymodality.data import check, load, look, mixture, normalize, open_records, read_chat
from transformers_anymodality.data.records import encode_chats
from transformers_anymodality.modalities import MODALITIES
from transformers_anymodality.systems import SYSTEMS


datasets = pytest.importorskip("datasets")

_own_cache = data_files._own_cache
saved = data_files.saved


# --- records --------------------------------------------------------------------------------------------------------


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


# --- labels ---------------------------------------------------------------------------------------------------------


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


# --- files ----------------------------------------------------------------------------------------------------------


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


def test_several_files_patterns_and_data_sets(tmp_path, monkeypatch):
    for name in "ab":
        lines(tmp_path / f"{name}.jsonl", said("what", name))
    assert len(load(f"{tmp_path}/*.jsonl")) == len(load([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])) == 2
    made = datasets.Dataset.from_list([said("what", "yes", image="a.png")])
    assert load(made, media_root="R")[0]["images"] == ["R/a.png"]
    made.save_to_disk(tmp_path / "saved")
    assert list(load(tmp_path / "saved")) == list(load(tmp_path / "saved", streaming=True)) == list(load(made))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert list(load("~/saved")) == list(load(made)) and len(load(["~/a.jsonl", "~/b.jsonl"])) == 2
    with pytest.raises(FileNotFoundError, match="the list is empty"):
        load([])
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
