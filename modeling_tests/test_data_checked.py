"""What `check` finds and `show` shows, and what training does with bad samples."""

import base64
import io
import json
import re
from pathlib import Path

import pytest
import soundfile
import torch
from PIL import Image

from anymodality import cli
from modeling_tests import chat_templates, data_files, tiny
from modeling_tests.data_files import lines, png, said, same, write
from transformers_anymodality import AnyModalityDataCollator, MediaError
from transformers_anymodality.data import check, look
from transformers_anymodality.modalities import MODALITIES


_own_cache = data_files._own_cache
saved = data_files.saved


# --- check ----------------------------------------------------------------------------------------------------------


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


# --- show -----------------------------------------------------------------------------------------------------------


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


# --- bad samples in training ----------------------------------------------------------------------------------------


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
