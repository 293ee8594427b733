"""One of several processes that hold a composite together, each a share of its weights. See test_parallel.py.

torchrun --nproc_per_node 2 -m modeling_tests.parallel_worker FOLDER '{"tp_size": 2}'
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, AutoProcessor
from transformers.distributed import DistributedConfig

from modeling_tests import tiny
from transformers_anymodality import set_trainable


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def share(model: torch.nn.Module) -> int:
    """Numbers that this process holds."""
    return sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in model.parameters())


def loaded(folder: Path, **settings: Any) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **settings)
    set_trainable(model, "all", verbose=False)
    return model


def results(model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Logits, an answer, the loss, and the gradient of each weight."""
    model.eval()
    with torch.no_grad():
        logits = whole(model(**inputs).logits)
        answer = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    model.train()
    loss = whole(model(**inputs, labels=inputs["input_ids"]).loss)
    loss.backward()
    gradients = {name: whole(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": logits, "answer": answer, "loss": loss.detach(), "gradients": gradients}


def main(folder: Path, settings: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    model, one = loaded(folder, distributed_config=DistributedConfig(**settings)), loaded(folder)
    inputs = tiny.inputs(AutoProcessor.from_pretrained(folder), *tiny.CHATS)
    found, expected = results(model, inputs), results(one, inputs)
    assert len(expected["gradients"]) > 100
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    model.save_pretrained(folder / "saved", is_main_process=dist.get_rank() == 0)
    dist.barrier()
    saved = AutoModelForCausalLM.from_pretrained(folder / "saved").state_dict()
    for name, value in one.state_dict().items():
        assert torch.equal(saved[name], value), name
    report = {"spread": [name for name, p in model.named_parameters() if isinstance(p, DTensor)]}
    report |= {"world": dist.get_world_size(), "share": share(model) / share(one)}
    if dist.get_rank() == 0:
        (folder / "report.json").write_text(json.dumps(report))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
