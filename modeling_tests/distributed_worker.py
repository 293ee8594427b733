"""Trains a tiny composite by the stock Trainer: one process of however many there are. See test_distributed.py.

    distributed_worker.py FOLDER '{"steps": 20, ...}'

Sample `2 * step + rank` is what process `rank` of two sees at `step`: other modalities than the other one, other ones than at
the step before, none at times. One process alone sees both.
"""

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoProcessor, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.distributed import DistributedConfig

from modeling_tests import tiny
from transformers_anymodality import AnyModalityDataCollator, lora_config, set_trainable
from transformers_anymodality.training.parts import parameter_groups


KINDS = [("image", "what ?"), ("what ?",), ("audio", "imu", "what ?"), ("video", "depth", "what ?")]


def samples(steps: int) -> list[dict]:
    chosen = []
    for step in range(steps):
        for rank in range(2):
            parts = KINDS[(step + rank * (1 + step // 4)) % 4]
            chosen.append({"messages": tiny.chat(*parts, seed=step + 100 * rank, answer=("one", "two four")[rank])})
    return chosen


def as_dataset(chosen: list[dict]) -> Any:
    """Samples, arrays as they are, as the data set that TRL asks for."""
    from datasets import Dataset

    rows = Dataset.from_dict({"place": list(range(len(chosen)))})
    return rows.with_transform(lambda batch: {"messages": [chosen[place]["messages"] for place in batch["place"]]})


class EndCallback(TrainerCallback):
    """Ends the last process as `kill -9` does, in the middle of a step; or lets training stop after one."""

    def __init__(self, kill_at: int | None, stop_at: int | None):
        self.kill_at, self.stop_at = kill_at, stop_at

    def on_pre_optimizer_step(self, args, state, control, **kwargs) -> None:
        if state.global_step == self.kill_at and args.process_index == args.world_size - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        control.should_training_stop |= state.global_step == self.stop_at


def main(folder: Path, settings: dict) -> None:
    torch.set_num_threads(1)
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    steps, world = settings["steps"], int(os.environ.get("WORLD_SIZE", 1))
    # Of DistributedConfig: the model is spread when it is loaded.
    parallel = settings.get("parallel", {}) if world > 1 else {}
    kinds = (Trainer, TrainingArguments)
    if settings.get("trl"):
        from trl import SFTConfig, SFTTrainer

        kinds = (SFTTrainer, partial(SFTConfig, dataset_kwargs={"skip_prepare_dataset": True}, bf16=False))
    arguments = kinds[1](
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=2 // (world // parallel.get("tp_size", 1)),
        learning_rate=0.05,
        optim=settings.get("optim", "sgd"),
        lr_scheduler_type="linear",
        train_sampling_strategy=settings.get("sampling", "sequential"),
        remove_unused_columns=False,
        save_strategy="steps" if "save_steps" in settings else "no",
        save_steps=settings.get("save_steps", steps),
        logging_steps=1,
        dataloader_num_workers=settings.get("workers", 0),
        report_to="none",
        use_cpu=not deepspeed,  # DeepSpeed finds out by itself, by DS_ACCELERATOR
        ddp_backend="gloo" if world > 1 else None,
        disable_tqdm=True,
        seed=0,
    )
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" or parallel:
        # Accelerate takes both for a matter of GPUs; told that these are some, it does as it does there.
        assert arguments.device.type == "cpu"
        PartialState().distributed_type = DistributedType.MULTI_GPU
    set_seed(0)  # LoRA starts at random, in each process alike
    spread = {"distributed_config": DistributedConfig(**parallel)} if parallel else {}
    model = AutoModelForCausalLM.from_pretrained(settings["model"], **spread)
    processor = AutoProcessor.from_pretrained(settings["model"])
    if "dropout" in settings:  # in the layers of the language model, which is frozen
        for module in model.language_model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = settings["dropout"]
    if settings.get("lora"):
        model = get_peft_model(model, lora_config(model, r=2, lora_dropout=settings.get("lora_dropout", 0.2)))
    else:
        set_trainable(model, ["aligners", "image_tower"], verbose=False)
    optimizer, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    options["params"] = parameter_groups(model, {"aligners": 0.02}, weight_decay=0.01)
    data = samples(settings.get("samples", steps))
    trainer = kinds[0](
        model=model,
        args=arguments,
        train_dataset=as_dataset(data) if settings.get("trl") else data,
        data_collator=AnyModalityDataCollator(processor),
        processing_class=processor,
        optimizer_cls_and_kwargs=(optimizer, options),
        callbacks=[EndCallback(settings.get("kill_at"), settings.get("stop_at"))],
    )
    trainer.train(resume_from_checkpoint=settings.get("resume"))
    trainer.save_model(str(folder / "final"))
    if trainer.is_world_process_zero():
        log = [
            (entry["step"], entry["loss"], entry["grad_norm"])
            for entry in trainer.state.log_history
            if "loss" in entry
        ]
        report = {"log": log, "kind": str(trainer.accelerator.distributed_type), "world": arguments.world_size}
        (folder / "report.json").write_text(json.dumps(report))
    trainer.accelerator.end_training()  # see examples/recipe.py


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
