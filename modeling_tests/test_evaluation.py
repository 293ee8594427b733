"""Evaluation from end to end: tasks, suites, pages, comparisons, the command."""

import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from anymodality.cli import main
from modeling_tests import evaluation_runs, tiny
from modeling_tests.evaluation_runs import KINDS, job, run, write
from transformers_anymodality import AnyModalityDataCollator
from transformers_anymodality.evaluation import TASKS, Job, Task, answer, compare, read_answers, read_results
from transformers_anymodality.evaluation.answering import generated, likelihoods
from transformers_anymodality.evaluation.tasks import score


pytest.importorskip("sacrebleu")
pytest.importorskip("rapidfuzz")

folder = evaluation_runs.folder


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_from_end_to_end(kind, folder, shared, tmp_path):
    found = run(shared, [job(folder, kind)], tmp_path / "results.json")["tasks"][kind]
    assert found["samples"] == 5 and found["task"] == kind
    assert set(found["metrics"]) >= set(TASKS[kind].metrics)
    assert all(math.isfinite(value) for value in found["metrics"].values())
    lines = read_answers(tmp_path / "results.json", kind)
    assert [line["index"] for line in lines] == list(range(5))
    assert score(TASKS[kind], lines) == found["metrics"]
    if kind == "vqa":
        assert found["groups"] == {"answer_type": {"other": {"samples": 5, **found["metrics"]}}}


def record_of(task: Task, index: int) -> dict:
    """A record with all that a task asks for, by its own table of columns."""
    choices = list(task.choices or ["big", "small"])
    several = [" ".join(tiny.WORDS[14 + 4 * index : 19 + 4 * index])]
    answers = choices[index % 2] if task.choices or task.needs_choices else several
    record = {"id": index, "image": f"{index}.png", task.questions[0]: "what is this ?", task.references[0]: answers}
    return {**dict.fromkeys(task.keeps, "some"), **record, **({"choices": choices} if task.needs_choices else {})}


def as_if(lines: list[dict], right: bool) -> list[dict]:
    """The lines of a run, with answers that are right, or that are not."""
    made = []
    for line in lines:
        likely = [float((choice == line["references"][0]) is right) for choice in line.get("choices") or ()]
        said = line["references"][0] if right else "nonsense of many other words"
        made.append({**line, "answer": said, **({"log_likelihoods": likely} if "log_likelihoods" in line else {})})
    return made


@pytest.mark.parametrize("name", list(TASKS))
def test_every_task_from_end_to_end(name, folder, shared, tmp_path):
    """From records with its columns to answers, and to metrics that tell right ones from wrong ones."""
    task = TASKS[name]
    records = write(tmp_path, "records", [record_of(task, i) for i in range(4)])
    chosen = Job(name, records, media_root=str(folder))
    found = run(shared, [chosen], tmp_path / "results.json")["tasks"][name]
    lines = read_answers(tmp_path / "results.json", name)
    assert found["samples"] == len(lines) >= 4 and task.help and all("answer" in line for line in lines)
    assert all(set(line["kept"]) <= set(task.keeps) for line in lines if "kept" in line)
    if task.rating is not None:
        assert not found["metrics"] and found["rated"] == 0
        with pytest.raises(ValueError):
            task.rating.read({"rating": "nonsense"})
        return
    assert score(task, lines) == found["metrics"] and set(found["metrics"]) >= set(task.metrics)
    right, wrong = (score(task, as_if(lines, right)) for right in (True, False))
    assert all(right[metric] != wrong[metric] for metric in task.metrics)


def test_answers_are_those_of_one_sample_at_a_time(folder, shared):
    model, processor = shared
    chosen = job(folder, "multimodal_asr")
    samples = [chosen.sample(i) for i in range(3)]
    prepared = [
        processor.apply_chat_template(
            [sample.messages for sample in several],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding_side": "left"},
        )
        for several in (samples, samples[:1], samples[1:2], samples[2:])
    ]
    together, *alone = [generated(model, processor, inputs, do_sample=False, max_new_tokens=5) for inputs in prepared]
    assert together == [one[0] for one in alone]


def test_likelihoods_are_the_loss_of_each_choice(folder, shared):
    """The negative loss of training on that answer, times its tokens."""
    model, processor = shared
    chosen = job(folder, "multiple_choice")
    samples = [chosen.sample(i) for i in range(2)]
    collate = AnyModalityDataCollator(processor)

    def batch(place):
        return collate(
            [{"messages": [*one.messages, {"role": "assistant", "content": one.choices[place]}]} for one in samples]
        )

    found = likelihoods(model, samples, [batch(place) for place in range(3)])
    for sample, line in zip(samples, found, strict=True):
        for choice, value, tokens in zip(sample.choices, line["log_likelihoods"], line["tokens"], strict=True):
            alone = collate([{"messages": [*sample.messages, {"role": "assistant", "content": choice}]}])
            with torch.no_grad():
                loss = model(**alone).loss
            assert tokens == len(choice.split()) + 1  # with what ends the answer
            assert math.isclose(value, -float(loss) * tokens, rel_tol=1e-4)
        assert line["answer"] == sample.choices[int(np.argmax(line["log_likelihoods"]))]


# --- suites, pages, comparisons, the command -----------------------------------------------------------------------------


def test_pandagpts_prompts_are_those_for_each_records_modalities(shared, folder, tmp_path):
    records = [{"image": "0.png"}, {"image": "1.png", "audio": "1.wav"}, {"question": "none"}]
    chosen = Job("pandagpt", records, media_root=str(folder))
    assert [chosen.sample(i).id for i in range(chosen.count)][-1] == "1: image and audio 0"
    found = run(shared, [chosen], tmp_path / "results.json")["tasks"]["pandagpt"]
    assert found["samples"] == 5 and found["metrics"] == {}


def test_anymals_suite_is_a_folder_of_benchmarks(shared, folder, tmp_path, capsys):
    for name, kind in {"coco": "captions", "scienceqa": "choices"}.items():
        (tmp_path / f"{name}.jsonl").write_text((folder / f"{kind}.jsonl").read_text())
    words = ["evaluate", str(folder / "model"), "--output", str(tmp_path / "r.json"), "--media-root", str(folder)]
    assert main([*words, "--tasks", "anymal", "--data", str(tmp_path), "--generation", "max_new_tokens=3"]) == 0
    assert list(read_results(tmp_path / "r.json")["tasks"]) == ["anymal_coco", "anymal_scienceqa"]
    assert main([*words, "--tasks", "anymal", "--data", str(tmp_path / "r.samples")]) == 1
    assert "has no file of the suite anymal: coco.jsonl, " in capsys.readouterr().err


def test_the_command(folder, tmp_path, capsys):
    output = str(tmp_path / "results.json")
    words = [
        "evaluate",
        str(folder / "model"),
        "--media-root",
        str(folder),
        "--output",
        output,
        "--generation",
        "max_new_tokens=3",
    ]
    files = f"{folder / 'asr.jsonl'},{folder / 'labels.jsonl'}"
    assert main([*words, "--tasks", "asr,sizes:classification", "--data", files]) == 0
    printed = capsys.readouterr().out
    assert "wer" in printed and "sizes" in printed and "accuracy" in printed
    page = (tmp_path / "results.samples/asr.html").read_text()
    assert page.count("<audio") == 5 and "reference: one two three" in page and "wer" in page
    for wrong, message in {
        ("--tasks", "asr,vqa", "--data", f"{files},x"): "2 tasks, but 3 data files",
        ("--tasks", "ars", "--data", "x"): "Unknown task 'ars'. Did you mean 'asr'",
        ("--tasks", "asr", "--data", "gone.jsonl"): "gone.jsonl",
        ("--tasks", "asr", "--data", files.split(",")[0], "--ratings", "r"): "the task is unclear",
    }.items():
        assert main([*words, *wrong]) == 1
        assert message in capsys.readouterr().err
    assert main(["evaluate", str(folder / "model")]) == 2


def test_comparison_of_two_runs(shared, folder, tmp_path, capsys):
    """Two runs whose right answers are known: the difference, its interval and p as by hand."""
    paths = []
    for name, right in {"a": [1, 1, 0, 0, 0], "b": [1, 1, 1, 1, 1]}.items():
        path = tmp_path / f"{name}.json"
        run(shared, [job(folder, "vqa"), job(folder, "asr")], path)
        lines = read_answers(path, "vqa")
        lines = [{**line, "answer": "yes" if one else "no"} for line, one in zip(lines, right, strict=True)]
        answers = tmp_path / f"{name}.samples/vqa.0.jsonl"
        answers.write_text("".join(json.dumps(line) + "\n" for line in lines))
        paths.append(str(path))
    found = {(one.task, one.metric): one for one in compare(*paths)}
    vqa = found["vqa", "vqa_accuracy"]
    assert (vqa.a, vqa.b, vqa.samples) == (0.4, 1.0, 5)
    # Of 5 draws from 5 samples, three of which differ: none differs in (2/5)^5 = 1 % of cases.
    assert 0 < vqa.p < 0.05 and vqa.low == pytest.approx(0.2) and vqa.high == 1
    asr = found["asr", "wer"]
    assert asr.a == asr.b and (asr.low, asr.high, asr.p) == (0, 0, 1)
    assert main(["compare", *paths]) == 0
    assert re.search(r"vqa +vqa_accuracy +0.4000 +1.0000 +\+0.6000", capsys.readouterr().out)
    assert main(["compare", *paths, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["metric"] == "vqa_accuracy"
    answers.write_text(answers.read_text().replace('"id": 3', '"id": 33'))
    assert main(["compare", *paths]) == 1
    assert "sample 3 (id 3) is not the same in both runs" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_in_processes_of_its_own(folder, tmp_path):
    words = [
        "evaluate",
        str(folder / "model"),
        "--media-root",
        str(folder),
        "--output",
        str(tmp_path / "results.json"),
    ]
    words += [
        "--tasks",
        "vqa",
        "--data",
        str(folder / "vqa.jsonl"),
        "--generation",
        "max_new_tokens=3",
        "--num-processes",
        "2",
    ]
    command = [sys.executable, "-m", "anymodality.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "vqa_accuracy" in done.stdout and len(list(tmp_path.glob("results.samples/vqa.[01].jsonl"))) == 2


def test_what_stops_a_later_task_stops_the_first(folder, shared, tmp_path):
    wrong = Job("asr", write(folder, "no_text", [{"audio": "0.wav"}]), media_root=str(folder))
    with pytest.raises(ValueError, match="no references in references, transcription"):
        run(shared, [job(folder, "captioning"), wrong], tmp_path / "results.json")
    assert not any(tmp_path.iterdir())


def test_the_last_process_to_end_sees_that_all_is_there(folder, shared, tmp_path):
    jobs = [job(folder, "captioning"), job(folder, "asr")]
    options = {"verbose": False, "generation": {"max_new_tokens": 2}, "world_size": 2}
    output = tmp_path / "results.json"
    assert not answer(*shared, jobs[:1], output, rank=0, **options)  # the first task is this process's,
    assert answer(*shared, jobs[:1], output, rank=1, **options)
    assert not answer(*shared, jobs, output, rank=1, **options)  # the second the other's
    assert answer(*shared, jobs, output, rank=0, **options)
