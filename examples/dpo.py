"""Preferences about media: TRL's `DPOTrainer` makes the better of two answers likelier, by images and IMU.

    python examples/dpo.py [--output outputs/begun]

A small model that has only begun to tell digits apart is made first (and kept: `grpo.py` goes on from it, too). Each pair
is a question about a file with a right and a wrong answer. A minute on a CPU.
"""

import random

from datasets import Dataset
from digits_world.beginner import accuracy, draw, make_beginner, options, say, show
from trl import DPOConfig, DPOTrainer

from transformers_anymodality import lora_config
from transformers_anymodality.training.trl import with_media


def pairs(files: dict, count: int, seed: int) -> Dataset:
    """`prompt` with its medium, `chosen` and `rejected`."""
    rng = random.Random(seed)
    asked = [draw(files, rng) for _ in range(count)]
    wrong = [rng.choice([other for other in range(10) if other != digit]) for _, digit in asked]
    return Dataset.from_list(
        [
            {"prompt": question, "chosen": say(digit), "rejected": say(other)}
            for (question, digit), other in zip(asked, wrong, strict=True)
        ]
    )


def main(arguments: list[str] | None = None) -> dict[str, list[float]]:
    chosen = options(__doc__, arguments)
    model, processor, world = make_beginner(chosen.output)
    before = accuracy(model, processor, world["test"])
    trainer = with_media(DPOTrainer)(
        model,
        args=DPOConfig(
            output_dir=str(chosen.output / "dpo"),
            max_steps=chosen.steps,
            per_device_train_batch_size=16,
            learning_rate=2e-3,
            beta=0.3,
            loss_type=["sigmoid", "sft"],  # alone, the first may make both answers less likely
            loss_weights=[1.0, 0.3],
            gradient_checkpointing=False,  # the model is small
            logging_steps=4,
            eval_strategy="steps",
            eval_steps=chosen.steps,
            eval_on_start=True,
            per_device_eval_batch_size=48,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
        ),
        train_dataset=pairs(world["train"], 16 * chosen.steps, seed=2),
        eval_dataset=pairs(world["test"], 48, seed=3),
        processing_class=processor,
        peft_config=lora_config(model, r=8),  # without its adapter, the model is its own reference
    )
    trainer.train()
    first, *_, last = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    results = {"log-probability of right answers": [first["eval_logps/chosen"], last["eval_logps/chosen"]]}
    results["of wrong answers"] = [first["eval_logps/rejected"], last["eval_logps/rejected"]]
    after = accuracy(trainer.model, processor, world["test"])
    results |= {f"accuracy, {name}": [before[name], after[name]] for name in before}
    show("about new files: before, after", results)
    return results


if __name__ == "__main__":
    main()
