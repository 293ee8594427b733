"""Evaluation: how records are read, and answers; and which are refused."""

import pytest

from modeling_tests import evaluation_runs
from modeling_tests.evaluation_runs import run, write
from transformers_anymodality.evaluation import Job, Task, register_task
from transformers_anymodality.evaluation.tasks import lettered, named


pytest.importorskip("sacrebleu")
pytest.importorskip("rapidfuzz")

folder = evaluation_runs.folder


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
