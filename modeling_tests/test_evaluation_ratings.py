"""Evaluation by ratings: those of people, and those of a judge."""

import json
import math
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from anymodality.cli import main
from modeling_tests import evaluation_runs
from modeling_tests.evaluation_runs import run, write
from transformers_anymodality.evaluation import Job, Judge, finish, read_results
from transformers_anymodality.systems.x_llm.data import parse_review


pytest.importorskip("sacrebleu")
pytest.importorskip("rapidfuzz")

folder = evaluation_runs.folder


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
