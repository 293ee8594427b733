"""Stage 2: aligners go on, and the language model comes to meet them, by LoRA or as a whole.

    python examples/small_data.py
    python examples/instruct.py --config examples/recipes/small/pandagpt_instruct.yaml
    python examples/instruct.py --model outputs/align --train_data chats.jsonl --lora_rank 64 --learning_rate 1e-5
    python examples/instruct.py --model outputs/align --train_data chats.jsonl --lora_rank 0 --trainable all
    accelerate launch --config_file examples/accelerate/zero3.yaml examples/instruct.py --config my.yaml

Everything is an argument, in the YAML file or on the command line: the model (stage 1's result, a published system, or
language_model + modalities), the data, and all of Transformers' TrainingArguments (--report_to, --push_to_hub,
--resume_from_checkpoint last, ...). With LoRA, --output_dir holds the adapter with the trained aligners in it, and
`merged` the whole model with the adapter merged into it.
"""

from dataclasses import dataclass
from pathlib import Path

from peft import get_peft_model
from recipe import load_model, make_trainer, parse, setting, train
from transformers import Trainer

from transformers_anymodality import lora_config, parts_table, set_trainable
from transformers_anymodality.utils.tensors import is_sharded


@dataclass
class StageArguments:
    """The parts that are trained."""

    _argument_group_name = "the stage"

    trainable: list[str] = setting(["aligners"], "parts that learn as a whole; `none` for LoRA alone")
    lora_rank: int = setting(16, "of the language model's LoRA; 0 for none")
    lora_alpha: int | None = setting(None, "its scale, in multiples of 1 / rank; twice the rank if left out")
    lora_dropout: float = setting(0.0, "of what goes into LoRA")
    lora_targets: list[str] = setting(
        [], "layers (q_proj v_proj); all linear layers of the language model if left out"
    )
    merge: bool = setting(True, "also write the whole model with its adapter merged, to `merged` in the output folder")


def with_lora(model, processor, stage: StageArguments, training):
    """A PEFT model whose adapter says where its base is: in `base`, where the model was composed here."""
    if not model.config._name_or_path:
        base = str(Path(training.output_dir, "base"))
        if training.should_save:
            came_from_somewhere = any(model.part_sources.values())
            model.save_pretrained(base, light=came_from_somewhere, processor=processor)
        model.config._name_or_path = model.name_or_path = base
    set_trainable(model, [part for part in stage.trainable if part != "none"], verbose=False)
    whole = [name for name, part in model.named_children() if any(p.requires_grad for p in part.parameters())]
    config = lora_config(
        model,
        r=stage.lora_rank,
        lora_alpha=stage.lora_alpha,
        lora_dropout=stage.lora_dropout,
        target_modules=stage.lora_targets or None,
        modules_to_save=whole or None,
    )
    return get_peft_model(model, config)


def save_merged(trainer: Trainer, processor) -> None:
    """Weights that are spread over processes are left as they are: load the adapter in one process to merge it."""
    if not trainer.args.should_save:
        return
    if is_sharded(trainer.model):
        print(f"Merge in one process: PeftModel.from_pretrained(base, {trainer.args.output_dir!r}).merge_and_unload()")
    else:
        folder = Path(trainer.args.output_dir, "merged")
        merged = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
        merged.save_pretrained(folder, processor=processor)


def main(arguments: list[str] | None = None) -> None:
    model_arguments, data, stage, training = parse(
        __doc__,
        StageArguments,
        arguments,
        output_dir="outputs/instruct",
        learning_rate=2e-5,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        logging_steps=10,
    )
    model, processor = load_model(model_arguments)
    # Before the Trainer wraps the model: what is frozen then has neither gradients nor optimizer state.
    if stage.lora_rank:
        model = with_lora(model, processor, stage, training)
    else:
        set_trainable(model, stage.trainable, verbose=False)
    trainer = make_trainer(model, processor, data, training)
    if trainer.is_world_process_zero():
        print(parts_table(model))
    train(trainer)
    if stage.lora_rank and stage.merge:
        save_merged(trainer, processor)


if __name__ == "__main__":
    main()
