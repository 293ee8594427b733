"""Processes that tests start, and what is left of them."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from modeling_tests import distributed_worker


ROOT = Path(__file__).parents[1]
# Said where a thread of gloo's outlives Python, after all work is done: of groups that nobody destroyed. DeepSpeed keeps
# its own to the end. And where a busy machine does not start Ray within the 30 seconds that it grants itself.
_ONCE_MORE = ("terminate called without an active exception", "The current node timed out during startup")


def processes(words: list[str], cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess:
    """Runs Python with these words, and `more` in its environment."""
    paths = os.pathsep.join([str(ROOT), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", **more}
    run = partial(
        subprocess.run,
        [sys.executable, *words],
        timeout=500,
        capture_output=True,
        text=True,
        env=environment,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
    )
    done = run()
    return run() if any(said in done.stderr for said in _ONCE_MORE) else done


def torchrun(count: int, *words: str, **settings) -> subprocess.CompletedProcess:
    """Runs Python with these words in `count` processes that know each other, all of which must succeed."""
    done = processes(["-m", "torch.distributed.run", "--nproc_per_node", str(count), *words], **settings)
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def run_one(folder: Path, settings: dict) -> dict:
    """In this process."""
    folder.mkdir(exist_ok=True)
    distributed_worker.main(folder, settings)
    return json.loads((folder / "report.json").read_text())


def saved_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of what was saved, as one process loads it."""
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()
