"""Answers reach the trackers of `report_to` as tables."""

import json
import re
import sqlite3
from importlib.util import find_spec

import pytest

from modeling_tests import tiny
from modeling_tests.training_runs import samples, trainer
from transformers_anymodality import set_trainable
from transformers_anymodality.training.callbacks import AnswersCallback


def answers_of_a_run(folder, tracker: str) -> list[dict]:
    """What was answered, at two evaluations and at the end, by a run that told it to a tracker."""
    model, processor = tiny.composite(settings=tiny.modalities("image", "audio", "imu"))
    set_trainable(model, "aligners", verbose=False)
    settings = dict(eval_strategy="steps", eval_steps=2, max_steps=5, report_to=[tracker], project="answers")
    run = trainer(model, processor, folder, **settings, run_name="tiny")
    AnswersCallback(samples(2), max_new_tokens=3).attach(run)
    run.train()
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 2, 4, 4, 5, 5]
    return rows


def test_answers_need_the_processor(tmp_path):
    model, processor = tiny.composite(settings=tiny.modalities("image"))
    run = trainer(model, processor, tmp_path)
    run.callback_handler.processing_class = processor.tokenizer
    AnswersCallback(samples(2)).attach(run)
    with pytest.raises(ValueError, match="pass `processing_class=processor`"):
        run.train()


def test_tensorboard_shows_answers_as_a_table(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    rows = answers_of_a_run(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    texts = events.Tensors("eval/answers/text_summary")
    assert [event.step for event in texts] == [2, 4, 5]
    for event, first in zip(texts, (0, 2, 4), strict=True):
        head, line, *table = event.tensor_proto.string_val[0].decode().splitlines()
        assert head == "| step | question | answer | expected |" and line == "| --- | --- | --- | --- |"
        cells = [
            [re.sub(r"[<>]", r"\\\g<0>", str(value)) for value in row.values()] for row in rows[first : first + 2]
        ]
        assert table == [f"| {' | '.join(row)} |" for row in cells]


def test_trackio_shows_answers_as_a_table(tmp_path, monkeypatch):
    if find_spec("trackio") is None:
        pytest.skip("needs trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # which it reads as it is imported
    rows = answers_of_a_run(tmp_path, "trackio")
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        logged = [json.loads(entry) for (entry,) in connection.execute("select metrics from metrics order by id")]
    told = [entry["eval/answers"]["_value"] for entry in logged if "eval/answers" in entry]
    assert [len(table) for table in told] == [2, 2, 2] and [row for table in told for row in table] == rows


def test_wandb_shows_answers_as_a_table(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    rows = answers_of_a_run(tmp_path, "wandb")
    files = sorted(tmp_path.glob("wandb/offline-run-*/files/media/table/eval/answers_*.json"))
    tables = [json.loads(file.read_text()) for file in files]
    assert all(table["columns"] == ["step", "question", "answer", "expected"] for table in tables)
    told = sorted(row for table in tables for row in table["data"])
    assert told == sorted([*row.values()] for row in rows)
