"""Evaluation from end to end: tasks, answers kept, killed runs that go on, ratings, pages, comparisons."""

import json
import math
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from anymodality.cli import main
from modeling_tests import tiny
from transformers_anymodality import AnyModalityDataCollator
from transformers_anymodality.evaluation import (
    TASKS,
    Job,
    Judge,
    Task,
    answer,
    compare,
    evaluate,
    finish,
    read_answers,
    read_results,
    register_task,
)
from transformers_anymodality.evaluation.answering import generated, likelihoods
from transformers_anymodality.evaluation.results import AnswerFiles
from transformers_anymodality.evaluation.tasks import lettered, named, score
from transformers_anymodality.systems.x_llm.data import parse_review


pytest.importorskip("sacrebleu")
pytest.importorskip("rapidfuzz")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, shared) -> Path:
    """A checkpoint, media, and a file of each kind of task."""
    folder = tmp_path_factory.mktemp("evaluation")
    model, processor = shared
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    for i in range(5):
        Image.fromarray(tiny.medium("image", i)).save(folder / f"{i}.png")
        soundfile.write(folder / f"{i}.wav", tiny.medium("audio", i), 16000)
        np.save(folder / f"{i}.npy", tiny.medium("imu", i))
    write(
        folder, "captions", [{"id": f"c{i}", "image": f"{i}.png", "captions": ["yes no", "one two"]} for i in range(5)]
    )
    questions = {"question": "what is this ?", "answers": [{"answer": "yes"}] * 10, "answer_type": "other"}
    write(folder, "vqa", [{"question_id": i, "image": f"{i}.png", **questions} for i in range(5)])
    write(folder, "asr", [{"audio": f"{i}.wav", "text": "one two three"} for i in range(5)])
    write(folder, "both", [{"audio": f"{i}.wav", "image": f"{i}.png", "text": "one two"} for i in range(5)])
    write(
        folder,
        "labels",
        [{"image": f"{i}.png", "question": "what ?", "label": ["big", "small"][i % 2]} for i in range(5)],
    )
    choices = {"question": "what ?", "choices": ["big red sound", "small", "walk"]}
    write(folder, "choices", [{"image": f"{i}.png", **choices, "answer": i % 3} for i in range(5)])
    write(folder, "yes_no", [{"image": f"{i}.png", "question": "is this big ?", "label": i % 2} for i in range(5)])
    write(folder, "imu", [{"imu": f"{i}.npy", "caption": "walk"} for i in range(5)])
    return folder


def write(folder: Path, name: str, records: list[dict]) -> str:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


KINDS = {
    "captioning": "captions",
    "vqa": "vqa",
    "asr": "asr",
    "multimodal_asr": "both",
    "classification": "labels",
    "multiple_choice": "choices",
    "multiple_choice_letter": "choices",
    "yes_no": "yes_no",
    "imu_captioning": "imu",
    "open": "vqa",
}


def job(folder: Path, kind: str, **options) -> Job:
    return Job(kind, str(folder / f"{KINDS[kind]}.jsonl"), media_root=str(folder), **options)


def run(shared, jobs: list[Job], output, **options):
    return evaluate(
        *shared, jobs, output, verbose=False, **{"generation": {"max_new_tokens": 4}, "batch_size": 3, **options}
    )


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


# --- reading records ---------------------------------------------------------------------------------------------------


def test_a_chat_and_a_flat_record_ask_the_same(folder, shared):
    """Media in parts or in columns; the last answer is the reference."""
    flat = {"image": "0.png", "question": "what ?", "answers": ["yes"]}
    parts = [{"type": "image"}, {"type": "text", "text": "what ?"}]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": "yes"}]
    sharegpt = [{"from": "human", "value": "<image>what ?"}, {"from": "gpt", "value": "yes"}]
    chats = [{"messages": turns, "images": ["0.png"]}, {"conversations": sharegpt, "image": "0.png"}]
    chosen = Job("vqa", [flat, *chats], media_root=folder, prompt="{question}")
    samples = [chosen.sample(i) for i in range(3)]
    assert samples[0].messages == samples[1].messages == samples[2].messages
    assert samples[0].messages[0]["content"][0] == {"type": "image", "image": str(folder / "0.png")}
    assert [sample.references for sample in samples] == [["yes"]] * 3
    assert samples[0].question == "what ?"


WRONG = {
    "vqa": [
        ({"image": "0.png", "answers": ["yes"]}, "has no question in question, prompt, .* its columns are id, image"),
        ({"image": "0.png", "question": "what ?"}, "has no references in references, answers, .* its columns are"),
        ({"image": "0.png", "question": "what ?", "answers": []}, "has an empty reference in 'answers'"),
        ({"image": "0.png", "question": "what ?", "answers": ["yes", " "]}, "has an empty reference"),
        ({"messages": [{"role": "assistant", "content": "yes"}]}, "has no question"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}], "answers": ["yes"]},
            "1 <image> placeholders, but 0 media of 'image'",
        ),
        (
            {"messages": [{"role": "user", "content": "?"}], "image": "0.png", "answers": ["yes"]},
            "0 <image> placeholders, but 1 media of 'image'",
        ),
    ],
    "multiple_choice": [
        ({"question": "what ?", "answer": "a"}, "has no choices in 'choices' or 'options'"),
        (
            {"question": "what ?", "choices": ["a", "b"], "answer": "c"},
            "reference 'c', which is not one of its choices: a, b",
        ),
        ({"question": "what ?", "choices": ["a", 3], "answer": "a"}, "not a list of strings"),
    ],
    "yes_no": [({"question": "what ?", "label": "maybe"}, "reference 'maybe', which is not one of its choices")],
}


@pytest.mark.parametrize("kind, record, message", [(kind, *one) for kind, several in WRONG.items() for one in several])
def test_errors_name_the_sample_before_anything_is_answered(kind, record, message, shared, folder, tmp_path):
    good = {
        "question": "what ?",
        "answer": "yes",
        **({"choices": ["yes", "no"]} if kind == "multiple_choice" else {}),
    }
    data = write(tmp_path, "data", [good, {"id": "x7", **record}])
    with pytest.raises(ValueError, match=f"^Sample 1 \\(id 'x7'\\):? .*{message}"):
        run(shared, [Job(kind, data, media_root=str(folder))], tmp_path / "results.json")
    assert not list(tmp_path.glob("results.samples/*.jsonl"))


def test_a_medium_that_cannot_be_read_names_the_sample(shared, tmp_path, folder):
    asked = {"question": "what ?", "answer": "yes"}
    records = [{"image": str(folder / "0.png"), **asked}, {"image": "gone.png", **asked}]
    with pytest.raises(ValueError, match=r"Sample 1: .*gone.png.* does not exist.*media root"):
        run(shared, [Job("vqa", records)], tmp_path / "results.json")


REFERENCES = [("b", ["a", "b"], "b"), (1, ["x", "y"], "y"), ("B", ["x", "y"], "y"), ("Y", ["x", "y"], "y")]


@pytest.mark.parametrize("given, choices, expected", REFERENCES)
def test_a_choice_by_words_place_or_letter(given, choices, expected):
    record = {"question": "what ?", "choices": choices, "answer": given}
    sample = Job("multiple_choice_letter", [record]).sample(0)
    assert sample.references == [expected]
    assert f"\nA. {choices[0]}\nB. {choices[1]}\n" in sample.question


# --- how answers are read ----------------------------------------------------------------------------------------------

LETTERS = {
    "B": "two",
    "b.": "two",
    "(C) because": "three",
    "The answer is B": "two",
    "Option: A": "one",
    "Two": "two",
    "": "",
    "E": "",
    "I think it's one of them": "",
}


@pytest.mark.parametrize("text", LETTERS)
def test_letters(text):
    assert lettered([{"answer": text, "choices": ["one", "two", "three"]}]) == [LETTERS[text]]


def test_named_labels():
    lines = [{"answer": said, "references": [label]} for said, label in [
        ("It is a polar bear.", "bear"),
        ("A Bear!", "polar bear"),
        ("bear or dog", "dog"),
        ("bearing", "dog"),
    ]]  # fmt: skip
    assert named(lines) == ["polar bear", "bear", "", ""]


def test_a_task_of_ones_own(shared, folder, tmp_path):
    register_task(
        "shouting",
        Task("are answers loud", "{question}", {"loud": ("accuracy", lambda lines: ["no" for _ in lines])}),
        exist_ok=True,
    )
    found = run(shared, [Job("shouting", [{"question": "what ?", "answer": "no"}])], tmp_path / "results.json")
    assert found["tasks"]["shouting"]["metrics"] == {"loud": 1}
    with pytest.raises(ValueError, match="Unknown task 'vqaa'. Did you mean 'vqa'"):
        Job("vqaa", [])
    with pytest.raises(ValueError, match="vqa: .* holds no samples"):
        run(shared, [Job("vqa", [])], tmp_path / "results.json")


# --- going on ----------------------------------------------------------------------------------------------------------


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


# --- ratings -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def owl(folder, tmp_path) -> str:
    rows = [("a,b", "single_turn"), ("a,c", "single_turn"), ("a,b,f", "multi_turn"), ("a,e", "multi_turn")]
    return write(
        tmp_path,
        "questions",
        [
            {"image": f"{i}.png", "question_id": i + 1, "question": "what is this ?", "ability": a, "category": [c]}
            for i, (a, c) in enumerate(rows)
        ],
    )


def test_owleval(owl, folder, tmp_path, capsys):
    """Questions in, answers and a page out; ratings in, counts and the table of abilities out."""
    output = str(tmp_path / "owl.json")
    words = ["evaluate", str(folder / "model"), "--tasks", "owleval", "--data", owl, "--output", output]
    words += ["--media-root", str(folder), "--generation", "max_new_tokens=3"]
    assert main(words) == 0
    assert "0  are rated" in capsys.readouterr().out
    answers = [json.loads(line) for line in (tmp_path / "owl.samples/owleval.answers.jsonl").read_text().splitlines()]
    assert [row["question_id"] for row in answers] == [1, 2, 3, 4]
    assert (
        list(answers[0]) == ["image", "question_id", "question", "answer", "model_id"]
        and answers[0]["image"] == "0.png"
    )
    page = (tmp_path / "owl.samples/owleval.rate.html").read_text()
    assert page.count("<input type=radio") == 16 and page.count("data:image/png") == 4
    assert not re.search(r"(src|href)=.?https?:", page)
    ratings = [{"id": 1, "rating": "A"}, {"question_id": 2, "rating": "c"}, {"id": 3, "rating": "B"}]
    assert main([*words, "--ratings", write(tmp_path, "ratings", ratings)]) == 0
    found = read_results(output)["tasks"]["owleval"]
    assert found["rated"] == 3 and math.isclose(found["metrics"]["owl_rating"], 2 / 3)
    assert [found["metrics"][f"owl_rating_{letter}"] for letter in "abcd"] == [1, 1, 1, 0]
    page = (tmp_path / "owl.samples/owleval.rate.html").read_text()
    data = json.loads(re.search(r"id=data>(.*?)</script>", page)[1])
    assert data["given"] == {"1": "A", "2": "C", "3": "B"} and "sha256" in data["run"]
    abilities = found["groups"]["ability"]
    assert abilities["b"] == {
        "samples": 2, "owl_rating": 1, "owl_rating_a": 1, "owl_rating_b": 1, "owl_rating_c": 0, "owl_rating_d": 0
    }  # fmt: skip
    assert abilities["e"] == {"samples": 1}  # nobody rated it
    # A rating that is changed counts, others stay.
    assert main([*words, "--ratings", write(tmp_path, "ratings", [{"id": 2, "rating": "A"}])]) == 0
    assert "owl_rating 1" in capsys.readouterr().out
    for wrong, message in [
        ({"id": 9, "rating": "A"}, "record 0 rates the id '?9'?, but no answer has"),
        ({"id": 1, "rating": "F"}, r"record 0 \(id 1\): its rating is 'F'"),
    ]:
        assert main([*words, "--ratings", write(tmp_path, "ratings", [wrong])]) == 1
        assert re.search(message, capsys.readouterr().err)


class _Endpoint(BaseHTTPRequestHandler):
    """Says "8 6" of everything; at first something that is not a review."""

    asked: list[dict] = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
        if body["model"] == "missing":
            self.send_error(404, "no such model")
            return
        text = "It depends." if len(self.asked) == 1 else "8 6\nThe first is better."
        reply = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *args):
        pass


@pytest.fixture
def endpoint():
    server = HTTPServer(("127.0.0.1", 0), _Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _Endpoint.asked = []
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_relative_score_by_a_judge(endpoint, shared, folder, tmp_path, monkeypatch):
    """Reviews are asked for again until they are some, kept, and not paid for twice."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    records = [
        {"image": f"{i}.png", "question": "what ?", "answer": "yes", "category": kind, "context": "a cat"}
        for i, kind in enumerate(["conv", "conv", "detail"])
    ]
    jobs = [Job("x_llm_relative", records, media_root=str(folder))]
    found = run(shared, jobs, tmp_path / "results.json", judge=Judge(endpoint, "some"))["tasks"]["x_llm_relative"]
    assert found["rated"] == 3
    assert found["metrics"] == {
        "relative_score": 75, "relative_score_model": 6, "relative_score_reference": 8
    }  # fmt: skip
    assert found["groups"]["category"]["conv"]["samples"] == 2
    assert len(_Endpoint.asked) == 4
    first = _Endpoint.asked[0]
    assert first["path"] == "/v1/chat/completions" and first["key"] == "Bearer secret" and first["model"] == "some"
    assert "a cat" in first["messages"][0]["content"] and "what ?" in first["messages"][0]["content"]
    finish(jobs, tmp_path / "results.json", judge=Judge(endpoint, "some"))
    assert len(_Endpoint.asked) == 4
    (tmp_path / "results.samples/x_llm_relative.ratings.jsonl").unlink()
    with pytest.raises(OSError, match="answers 404"):
        finish(jobs, tmp_path / "results.json", judge=Judge(endpoint, "missing"))
    with pytest.raises(OSError, match="does not answer"):
        finish(jobs, tmp_path / "results.json", judge=Judge("http://127.0.0.1:9/v1", "some"))
    reviews = [{"id": 0, "tuple": [8, 4]}, {"id": 1, "content": "8 4\nas above"}, {"id": 2, "scores": [4, 2]}]
    ratings = {"x_llm_relative": write(tmp_path, "reviews", reviews)}
    found = finish(jobs, tmp_path / "results.json", ratings=ratings)["tasks"]["x_llm_relative"]
    assert found["metrics"]["relative_score"] == 50


@pytest.mark.parametrize("review", ["", "8", "8 6 7", "0 5", "good\n8 6", "11 2"])
def test_a_review_without_two_scores(review):
    with pytest.raises(ValueError, match="expected two scores from 1 to 10"):
        parse_review(review)


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
