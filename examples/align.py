"""Stage 1: aligners learn to translate for a frozen language model what frozen towers see and hear.

    python examples/small_data.py
    python examples/align.py --config examples/recipes/small/anymal_align.yaml
    python examples/align.py --config examples/recipes/anymal_align_image.yaml --train_data captions.jsonl
    accelerate launch --config_file examples/accelerate/fsdp2.yaml examples/align.py --config my.yaml

Everything is an argument, in the YAML file or on the command line: the model (a composed checkpoint, a published system,
or language_model + modalities), the data, and all of Transformers' TrainingArguments (--report_to, --push_to_hub,
--resume_from_checkpoint last, ...). The result in --output_dir is a whole checkpoint for stage 2, `instruct.py`.
"""

from dataclasses import dataclass

from recipe import load_model, make_trainer, parse, setting, train

from transformers_anymodality import set_trainable


@dataclass
class StageArguments:
    """The parts that are trained."""

    _argument_group_name = "the stage"

    trainable: list[str] = setting(["aligners"], "parts: aligners, towers, image_tower, image_aligner.projection, ...")


def main(arguments: list[str] | None = None) -> None:
    model_arguments, data, stage, training = parse(
        __doc__,
        StageArguments,
        arguments,
        output_dir="outputs/align",
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        logging_steps=10,
    )
    model, processor = load_model(model_arguments)
    # Before the Trainer wraps the model: what is frozen then has neither gradients nor optimizer state.
    table = set_trainable(model, stage.trainable, verbose=False)
    trainer = make_trainer(model, processor, data, training)
    if trainer.is_world_process_zero():
        print(table)
    train(trainer)


if __name__ == "__main__":
    main()
