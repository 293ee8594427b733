"""One model over several processes, as Transformers itself spreads it: everything equals the model in one process."""

import json
from pathlib import Path

import pytest
import torch

from modeling_tests import tiny
from modeling_tests.docs import block, lines
from modeling_tests.process_runs import run_one, saved_weights, torchrun


def save(folder: Path, language_model: str = "llama") -> None:
    # Before Transformers 5.21 a vocabulary must be a multiple of the processes.
    for part in tiny.composite(tiny.language_model(language_model, vocab_size=40)):
        part.save_pretrained(folder)


@pytest.mark.parametrize(
    "language_model",
    ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen3", "gemma2", "mixtral"))],
)
def test_tensor_parallel_equals_one_process(tmp_path, language_model):
    """Logits, loss, gradients, answers; and what two save together is what they loaded."""
    checked(tmp_path, language_model, tp_size=2)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [{"fsdp_size": 2}, {"fsdp_size": 2, "tp_size": 2}])
def test_fully_sharded_and_tensor_parallel_equal_one_process(tmp_path, sizes):
    """The mesh of two by two in four processes."""
    checked(tmp_path, "llama", **sizes)


def checked(folder: Path, language_model: str, **sizes: int) -> None:
    save(folder, language_model)
    count = sizes.get("tp_size", 1) * sizes.get("fsdp_size", 1)
    torchrun(count, "-m", "modeling_tests.parallel_worker", str(folder), json.dumps(sizes))
    report = json.loads((folder / "report.json").read_text())
    assert report["world"] == count and report["share"] < 0.8
    language = [name for name in report["spread"] if name.startswith("language_model.")]
    assert any(name.endswith("q_proj.weight") for name in language)
    assert ("fsdp_size" in sizes) == any("_tower" in name for name in report["spread"])


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [{"tp_size": 2}, {"fsdp_size": 2}, {"tp_size": 2, "fsdp_size": 2}])
def test_the_trainer_trains_a_spread_model(tmp_path, sizes):
    """Losses, gradient norms and saved weights are those of one process, with other modalities at each step."""
    save(tmp_path / "base")
    settings = {"model": str(tmp_path / "base"), "steps": 12, "parallel": sizes}
    one = run_one(tmp_path / "one", settings)
    (tmp_path / "more").mkdir()
    count = sizes.get("tp_size", 1) * sizes.get("fsdp_size", 1)
    torchrun(count, "-m", "modeling_tests.distributed_worker", str(tmp_path / "more"), json.dumps(settings))
    more = json.loads((tmp_path / "more" / "report.json").read_text())
    assert more["world"] == count
    torch.testing.assert_close(torch.tensor(more["log"]), torch.tensor(one["log"]), atol=1e-4, rtol=1e-4)
    expected, found = (saved_weights(tmp_path / name / "final") for name in ("one", "more"))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_context_parallel_is_not_promised(shared):
    """Its language model alone may support it, and says so."""
    model, _ = shared
    assert model.language_model.supports_context_parallel and not model.supports_context_parallel


@pytest.mark.slow
def test_what_the_documentation_runs(tmp_path):
    """Its script, by its command, in two processes."""
    ((_, option, count, file),) = (row for row in lines("torchrun") if row[-1] == "spread.py")
    for part in tiny.composite():
        part.save_pretrained(tmp_path / "my-model")
    (tmp_path / file).write_text(block("gpus.md", "DistributedConfig"))
    done = torchrun(int(count), file, cwd=tmp_path)
    assert option == "--nproc_per_node" and done.stdout.strip()
    assert (tmp_path / "tuned" / "model.safetensors").exists()
