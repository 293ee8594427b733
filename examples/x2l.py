"""X-LLM's three stages: an interface alone, interfaces to the language model, all of them together.

    python examples/small_data.py
    python examples/x2l.py --config examples/recipes/small/x_llm_interface.yaml
    python examples/x2l.py --config examples/recipes/small/x_llm_image.yaml    # takes the interface's weights
    python examples/x2l.py --config examples/recipes/small/x_llm_speech.yaml   # goes on with the image's model,
    python examples/x2l.py --config examples/recipes/small/x_llm_video.yaml    # and so on
    python examples/x2l.py --config examples/recipes/small/x_llm_joint.yaml

An interface turns what a tower perceives into tokens (X2L: another modality to language); its adapter is the projection
at its end, and a Q-Former's queries.

  interface  One interface alone (--interfaces image), the rest frozen, in front of a small language model that stands in:
             the interface learns to tell what is there before it meets the large one.
  align      Interfaces to the language model, each for itself or several; `--trainable` for some of their parts only.
             `--interface_weights {image: outputs/...}` takes what stage 1 learned: all that fits the new model.
  joint      All modalities together, on a mixture of tasks; adapters only, the rest of the interfaces frozen.

The language model and the towers never learn. Everything is an argument, in the YAML file or on the command line, all
of Transformers' TrainingArguments among them (--report_to, --push_to_hub, --resume_from_checkpoint last, ...).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from recipe import load_model, make_trainer, parse, setting, train
from transformers import AutoModelForCausalLM

from transformers_anymodality import AnyModalityForCausalLM, set_trainable


@dataclass
class StageArguments:
    """Which stage, and what learns in it."""

    _argument_group_name = "the stage"

    stage: Literal["interface", "align", "joint"] = setting("align", "see above")
    interfaces: list[str] = setting([], "modalities whose interfaces learn; all if left out")
    trainable: list[str] = setting([], "parts of them, image_aligner.projection, ...; the stage's own if left out")
    interface_weights: dict | str | None = setting(None, "modality -> checkpoint whose interface is taken over")


def take_over(model: AnyModalityForCausalLM, modality: str, checkpoint: str) -> str:
    """Copies an interface's weights from another composed checkpoint, but those of another shape; says which."""
    other = AutoModelForCausalLM.from_pretrained(checkpoint).aligner(modality).state_dict()
    own = model.aligner(modality).state_dict()
    fitting = {name for name, weight in own.items() if name in other and other[name].shape == weight.shape}
    with torch.no_grad():
        for name in fitting:
            own[name].copy_(other[name])
    left = sorted(set(own) - fitting)
    return f"{modality}: {len(fitting)} tensors from {checkpoint}; new: {', '.join(left) or 'none'}"


def adapters(model: AnyModalityForCausalLM, modality: str) -> list[str]:
    """An interface's adapter: its last projection, and queries where it has any."""
    names = (f"{model.config.modalities[modality].aligner}_aligner.{name}" for name in ("projection", "queries"))
    known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return [name for name in names if any(f"{parameter}.".startswith(f"{name}.") for parameter in known)]


def learning_parts(model: AnyModalityForCausalLM, stage: StageArguments) -> list[str]:
    """Names for `set_trainable`."""
    modalities = stage.interfaces or list(model.config.modalities)
    if unknown := sorted(set(modalities) - set(model.config.modalities)):
        raise SystemExit(f"--interfaces {' '.join(unknown)}: the model has {', '.join(model.config.modalities)}.")
    if stage.stage == "interface" and len(modalities) != 1:
        raise SystemExit(f"Stage `interface` is for one: --interfaces with one of {', '.join(modalities)}.")
    if stage.trainable:
        return stage.trainable
    if stage.stage == "joint":
        return [name for modality in modalities for name in adapters(model, modality)]
    return [f"{model.config.modalities[modality].aligner}_aligner" for modality in modalities]


def main(arguments: list[str] | None = None) -> None:
    model_arguments, data, stage, training = parse(
        __doc__,
        StageArguments,
        arguments,
        output_dir="outputs/x2l",
        learning_rate=1e-4,
        weight_decay=0.05,
        lr_scheduler_type="cosine",
        logging_steps=10,
    )
    model, processor = load_model(model_arguments)
    taken = [take_over(model, *item) for item in (stage.interface_weights or {}).items()]
    # Before the Trainer wraps the model: what is frozen then has neither gradients nor optimizer state.
    table = set_trainable(model, learning_parts(model, stage), verbose=False)
    trainer = make_trainer(model, processor, data, training)
    if trainer.is_world_process_zero():
        print("\n".join([*taken, table]))
    train(trainer)


if __name__ == "__main__":
    main()
