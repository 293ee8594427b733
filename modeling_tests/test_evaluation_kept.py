"""Evaluation that goes on: answers are kept, killed runs lose none, and processes share the samples."""

import pytest
import torch

from modeling_tests import evaluation_runs, tiny
from modeling_tests.evaluation_runs import job, run
from transformers_anymodality.evaluation import answer, read_results
from transformers_anymodality.evaluation.answering import generated
from transformers_anymodality.evaluation.results import AnswerFiles


pytest.importorskip("sacrebleu")
pytest.importorskip("rapidfuzz")

folder = evaluation_runs.folder


def test_a_killed_run_goes_on(shared, folder, tmp_path, monkeypatch):
    """Killed in the middle of a line: whole lines are not answered again, and the results are those of one run."""
    output, whole = tmp_path / "results.json", tmp_path / "whole.json"
    expected = run(shared, [job(folder, "vqa")], whole)
    assert answer(*shared, [job(folder, "vqa", limit=3)], output, generation={"max_new_tokens": 4}, verbose=False)
    path = tmp_path / "results.samples/vqa.0.jsonl"
    kept = path.read_text()
    path.write_text(kept[: kept.rindex('"answer"')])
    calls = []
    from transformers_anymodality.evaluation import answering

    def counted(*args, **kwargs):
        found = generated(*args, **kwargs)
        calls.append(len(found))
        return found

    monkeypatch.setattr(answering, "generated", counted)
    assert run(shared, [job(folder, "vqa")], output) == {**expected, "tasks": {"vqa": {
        **expected["tasks"]["vqa"], "answers": "results.samples/vqa.*.jsonl"
    }}}  # fmt: skip
    assert sum(calls) == 3  # one that was torn, two that were not reached
    calls.clear()
    run(shared, [job(folder, "vqa")], output)
    assert not calls and len(path.read_text().splitlines()) == 5


def test_processes_share_the_samples(shared, folder, tmp_path):
    """Each has its own; the last writes the results, which are those of one process, whoever comes first."""
    jobs = [job(folder, "captioning"), job(folder, "yes_no")]
    assert run(shared, jobs, tmp_path / "results.json", rank=1, world_size=2) is None
    assert not (tmp_path / "results.json").exists()
    found = run(shared, jobs, tmp_path / "results.json", rank=0, world_size=2)
    assert len((tmp_path / "results.samples/captioning.1.jsonl").read_text().splitlines()) == 2
    alone = run(shared, jobs, tmp_path / "alone.json")
    assert [one["metrics"] for one in found["tasks"].values()] == [one["metrics"] for one in alone["tasks"].values()]


def test_answers_of_another_run_are_refused(shared, folder, tmp_path):
    output = tmp_path / "results.json"
    run(shared, [job(folder, "vqa", limit=2)], output)
    with pytest.raises(ValueError, match="answers of vqa with prompt=.* not 'Say: {question}': choose another output"):
        run(shared, [job(folder, "vqa", limit=2, prompt="Say: {question}")], output)
    other, processor = tiny.composite()
    with torch.no_grad():
        other.language_model.get_output_embeddings().weight.add_(1)
    with pytest.raises(ValueError, match="answers of vqa with weights="):
        run((other, processor), [job(folder, "vqa", limit=2)], output)
    with pytest.raises(ValueError, match="would hold results of several models"):
        run((other, processor), [job(folder, "yes_no")], output)
    output.write_text("[]")
    with pytest.raises(ValueError, match="is not a results file"):
        read_results(output)
    with pytest.raises(ValueError, match="Two tasks have the name 'vqa'"):
        run(shared, [job(folder, "vqa"), job(folder, "vqa")], tmp_path / "other.json")


def test_a_broken_line_is_named(tmp_path):
    (tmp_path / "r.samples").mkdir()
    (tmp_path / "r.samples/vqa.0.jsonl").write_text('{"index": 0}\n{"ind\n{"index": 2}\n')
    with pytest.raises(ValueError, match=r"vqa.0.jsonl, line 2 is not JSON"):
        AnswerFiles(tmp_path / "r.json", "vqa").lines()
