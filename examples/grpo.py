"""Rewards for what is said about media: TRL's `GRPOTrainer` lets a model try answers, and the right ones become likelier.

    python examples/grpo.py [--output outputs/begun]

A small model that has only begun to tell digits apart is made first (and kept: `dpo.py` goes on from it, too). Each
question about a file is answered several times; an answer's reward is whether it names the digit. A minute on a CPU.
"""

import random

from datasets import Dataset
from digits_world.beginner import accuracy, draw, make_beginner, options, show
from digits_world.parts import NUMBERS
from trl import GRPOConfig, GRPOTrainer

from transformers_anymodality import lora_config
from transformers_anymodality.training.trl import with_media


def questions(files: dict, count: int, seed: int) -> Dataset:
    """`prompt` with its medium, and `digit`, which the reward is told."""
    rng = random.Random(seed)
    asked = [draw(files, rng) for _ in range(count)]
    return Dataset.from_list([{"prompt": question, "digit": digit} for question, digit in asked])


def is_right(completions: list[list[dict]], digit: list[int], **columns) -> list[float]:
    """1 for an answer that names the digit and says no more."""
    return [float(said[0]["content"].strip() == NUMBERS[one]) for said, one in zip(completions, digit, strict=True)]


def main(arguments: list[str] | None = None) -> dict[str, list[float]]:
    chosen = options(__doc__, arguments)
    model, processor, world = make_beginner(chosen.output)
    before = accuracy(model, processor, world["test"])
    trainer = with_media(GRPOTrainer)(
        model,
        args=GRPOConfig(
            output_dir=str(chosen.output / "grpo"),
            max_steps=chosen.steps,
            per_device_train_batch_size=64,
            num_generations=4,
            max_completion_length=2,
            learning_rate=4e-3,
            gradient_checkpointing=False,  # the model is small
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
        ),
        train_dataset=questions(world["train"], 16 * chosen.steps, seed=2),
        reward_funcs=is_right,
        processing_class=processor,
        peft_config=lora_config(model, r=8),
    )
    trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    few = max(1, len(rewards) // 5)
    results = {"reward": [sum(rewards[:few]) / few, sum(rewards[-few:]) / few]}
    after = accuracy(trainer.model, processor, world["test"])
    results |= {f"accuracy on new files, {name}": [before[name], after[name]] for name in before}
    show("before, after", results)
    return results


if __name__ == "__main__":
    main()
