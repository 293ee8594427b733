"""The adapter for lmms-eval, on a tiny task of its own; only where lmms-eval is installed."""

import json
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from PIL import Image

from modeling_tests import tiny
from modeling_tests.docs import lines


pytest.importorskip("lmms_eval")

TASK = """
task: tiny_vqa
dataset_path: json
dataset_kwargs:
  data_files:
    test: DATA
  token: false
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 4
  temperature: 0
  until: ["STOP"]
process_results: !function utils.results
metric_list:
  - metric: exact
    aggregation: mean
    higher_is_better: true
"""
UTILS = """
from PIL import Image

def visual(doc):
    return [Image.open(doc["image"]).convert("RGB")]

def text(doc, kwargs=None):
    return doc["question"]

def results(doc, answers):
    return {"exact": float(answers[0] == doc["answer"])}
"""


@pytest.fixture
def task(shared, tmp_path):
    """A checkpoint and a task in a folder, and what the model answers when it is asked one by one."""
    from transformers_anymodality.evaluation.answering import generated

    model, processor = shared
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    expected = []
    for i in range(4):
        Image.fromarray(tiny.medium("image", i)).save(tmp_path / f"{i}.png")
        parts = [{"type": "image", "path": str(tmp_path / f"{i}.png")}, {"type": "text", "text": "what is this ?"}]
        inputs = tiny.inputs(processor, [{"role": "user", "content": parts}])
        answer = generated(model, processor, inputs, max_new_tokens=4, do_sample=False)[0]["answer"]
        expected.append(answer)
    stop = expected[0].split()[-1]
    expected = [answer.partition(stop)[0].strip() for answer in expected]
    rows = [
        {"image": str(tmp_path / f"{i}.png"), "question": "what is this ?", "answer": expected[0]} for i in range(4)
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "task").mkdir()
    text = TASK.replace("DATA", str(tmp_path / "data.jsonl")).replace("STOP", stop)
    (tmp_path / "task/tiny_vqa.yaml").write_text(text)
    (tmp_path / "task/utils.py").write_text(UTILS)
    return expected


def test_a_tiny_task(task, tmp_path):
    """lmms-eval's own evaluator gets those answers."""
    from lmms_eval import evaluator
    from lmms_eval.models import MODEL_REGISTRY_V2
    from lmms_eval.tasks import TaskManager

    from transformers_anymodality.inference.lmms_eval import manifest

    MODEL_REGISTRY_V2.register_manifest(manifest(), overwrite=True)
    found = evaluator.simple_evaluate(
        model="anymodality",
        model_args=f"pretrained={tmp_path / 'model'}",
        tasks=["tiny_vqa"],
        batch_size=3,
        device="cpu",
        task_manager=TaskManager(include_path=str(tmp_path / "task")),
        log_samples=True,
    )
    answers = [sample["filtered_resps"][0] for sample in found["samples"]["tiny_vqa"]]
    assert answers == task
    assert found["results"]["tiny_vqa"]["exact,none"] == sum(one == task[0] for one in task) / 4


@pytest.mark.slow
def test_its_own_command(task, tmp_path):
    """By the entry point, which an installed package has."""
    if not entry_points(group="lmms_eval.models", name="anymodality"):
        pytest.skip("this package is not installed")
    ((_, *words),) = lines("lmms-eval")  # of the documentation
    values = {"pretrained=my-model": f"pretrained={tmp_path / 'model'}", "mme": "tiny_vqa", "8": "3"}
    assert values.keys() <= {*words}
    command = [
        *(sys.executable, "-m", "lmms_eval", *(values.get(word, word) for word in words), "--device", "cpu"),
        *("--include_path", str(tmp_path / "task"), "--output_path", str(tmp_path / "out"), "--log_samples"),
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]
    (samples,) = (tmp_path / "out").rglob("*_samples_tiny_vqa.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert [row["filtered_resps"] for row in sorted(rows, key=lambda row: row["doc_id"])] == task
