"""Many processes: under each way of spreading the work, training equals that of one process, and survives `kill -9`."""

import json
import random
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeling_tests import any_size, tiny
from modeling_tests.process_runs import processes, run_one, saved_weights


CONFIGS = Path(__file__).parents[1] / "examples" / "accelerate"


def launch(folder: Path, settings: dict, config: str | None = None) -> subprocess.CompletedProcess:
    """Runs the worker in a process of its own, or in two by `accelerate launch` with one of the example configs."""
    command = []
    if config is not None:
        file = str(CONFIGS / f"{config}.yaml")
        command += ["-m", "accelerate.commands.launch", "--config_file", file, "--num_processes", "2"]
        command += ["--mixed_precision", "no", "--main_process_port", "0"]
    folder.mkdir(exist_ok=True)
    return processes([*command, "-m", "modeling_tests.distributed_worker", str(folder), json.dumps(settings)])


def run_two(folder: Path, settings: dict, config: str) -> dict:
    if config.startswith("zero"):
        pytest.importorskip("deepspeed")
    done = launch(folder, settings, config)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((folder / "report.json").read_text())
    kinds = {"ddp": "MULTI_CPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}
    assert (report["world"], report["kind"]) == (2, f"DistributedType.{kinds[config]}")
    return report


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    for part in tiny.composite():
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory, base):
    """Runs one process; what it did before for the same settings is not done again."""
    done: dict[str, tuple[Path, dict]] = {}

    def run(settings: dict) -> tuple[Path, dict]:
        key = json.dumps(settings)
        if key not in done:
            folder = tmp_path_factory.mktemp("one")
            done[key] = folder, run_one(folder, settings)
        return done[key]

    return run


def variants(*quick: str) -> list:
    """Few steps under the `quick` configs every time; under each, with `-m slow`, twice the 16 after which kinds recur."""
    every = [(config, steps) for config in ("ddp", "fsdp2", "zero2", "zero3") for steps in (12, 32)]
    return [
        pytest.param(config, steps, marks=[] if config in quick and steps == 12 else [pytest.mark.slow])
        for config, steps in every
        if config in quick or steps == 32
    ]


@pytest.mark.parametrize(("config", "steps"), variants("ddp", "fsdp2"))
def test_two_processes_with_other_modalities_at_each_step_equal_one(tmp_path, base, alone, config, steps):
    """None waits for the other for ever; losses, gradient norms and weights are those of one process with both's data;
    what two saved, one loads."""
    settings = {"model": str(base), "steps": steps}
    two = run_two(tmp_path / "two", settings, config)
    folder, one = alone(settings)
    torch.testing.assert_close(torch.tensor(two["log"]), torch.tensor(one["log"]), atol=1e-4, rtol=1e-4)
    expected, found = saved_weights(folder / "final"), saved_weights(tmp_path / "two" / "final")
    assert set(found) == set(expected)
    before = saved_weights(base)
    assert sum(not torch.equal(expected[name], before[name]) for name in before) > 50
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
@pytest.mark.parametrize("config", ["ddp", "fsdp2"])
def test_two_processes_with_images_of_any_size_equal_one(tmp_path, alone, config):
    """The tower reads patches as one row, is trained, and runs on the smallest dummy item where a process has no image."""
    depth = {"tower": tiny.vision_config(), "processor": tiny.image_processor(), "aligner": "linear"}
    image, video = any_size.modalities()["image"], {"tower": "image", "aligner": "mlp", "num_frames": 2}
    mixed = {**tiny.modalities("audio", "imu"), "image": image, "video": video, "depth": depth}
    for part in tiny.composite(settings=mixed):
        part.save_pretrained(tmp_path / "base")
    settings = {"model": str(tmp_path / "base"), "steps": 12}
    two = run_two(tmp_path / "two", settings, config)
    folder, one = alone(settings)
    torch.testing.assert_close(torch.tensor(two["log"]), torch.tensor(one["log"]), atol=1e-4, rtol=1e-4)
    expected, found = saved_weights(folder / "final"), saved_weights(tmp_path / "two" / "final")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["fsdp2", "zero3"])
@pytest.mark.parametrize("settings", [{"lora": True}, {"trl": True}, {"lora": True, "trl": True}], ids="-".join)
def test_lora_and_trl_in_two_processes_equal_one_process(tmp_path, base, alone, config, settings):
    """LoRA with trained aligners, TRL's SFTTrainer (which reads the head's sharded weight itself), and both."""
    if "trl" in settings:
        pytest.importorskip("trl", minversion="1.16")
    settings = {"model": str(base), "steps": 12, "lora_dropout": 0.0, **settings}
    two = run_two(tmp_path / "two", settings, config)
    folder, one = alone(settings)
    torch.testing.assert_close(torch.tensor(two["log"]), torch.tensor(one["log"]), atol=1e-4, rtol=1e-4)
    file = "adapter_model.safetensors" if "lora" in settings else "model.safetensors"
    expected, found = (load_file(place / "final" / file) for place in (folder, tmp_path / "two"))
    assert len(expected) > 50
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def checked_after_kill(tmp_path: Path, settings: dict, whole: dict, run) -> None:
    """Kills at a random step, goes on from the last checkpoint; log and weights are those of `whole`, bit for bit."""
    step = random.Random(str(settings)).randrange(settings["save_steps"] + 1, settings["steps"])
    killed = tmp_path / "killed"
    done = launch(killed, {**settings, "kill_at": step}, settings.get("config"))
    assert done.returncode != 0 and not (killed / "final").exists(), done.stderr[-2000:]
    if settings.get("config") is None:
        assert done.returncode == -signal.SIGKILL
    resumed = run(killed, {**settings, "resume": True})
    assert resumed["log"] == whole["log"]
    expected, found = saved_weights(tmp_path / "whole" / "final"), saved_weights(killed / "final")
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=[pytest.mark.slow])])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, base, workers):
    """With dropout, AdamW, a schedule and samples in random order over several epochs."""
    settings = {"model": str(base), "steps": 12, "save_steps": 4, "samples": 5, "dropout": 0.2, "workers": workers}
    settings |= {"sampling": "random", "optim": "adamw_torch"}
    whole = run_one(tmp_path / "whole", settings)
    checked_after_kill(tmp_path, settings, whole, run_one)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["ddp", "fsdp2", "zero2", "zero3"])
def test_two_processes_killed_and_resumed_equal_uninterrupted(tmp_path, base, config):
    settings = {"model": str(base), "steps": 12, "save_steps": 4, "samples": 5, "dropout": 0.2, "config": config}
    settings |= {"sampling": "random", "optim": "adamw_torch"}
    whole = run_two(tmp_path / "whole", settings, config)
    checked_after_kill(tmp_path, settings, whole, lambda folder, again: run_two(folder, again, config))


def test_killed_and_resumed_with_lora(tmp_path, base):
    """The adapter, and the aligners that it holds, go on where they were."""
    settings = {"model": str(base), "steps": 8, "save_steps": 3, "lora": True, "sampling": "random"}
    whole = run_one(tmp_path / "whole", settings)
    shorter = {**settings, "stop_at": 5}
    run_one(tmp_path / "stopped", shorter)
    resumed = run_one(tmp_path / "stopped", {**settings, "resume": True})
    assert resumed["log"] == whole["log"]
    expected, found = (
        load_file(tmp_path / name / "final" / "adapter_model.safetensors") for name in ("whole", "stopped")
    )
    assert set(found) == set(expected) and all(torch.equal(found[name], expected[name]) for name in expected)
