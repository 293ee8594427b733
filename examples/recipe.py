"""What the training scripts share: arguments from a YAML file and the command line, the model, the data, the Trainer."""

import importlib
import os
import sys
from argparse import ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    BitsAndBytesConfig,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    set_seed,
)

from anymodality.commands.compose import compose_from
from transformers_anymodality import AnyModalityDataCollator
from transformers_anymodality.data import at_speeds, load, mixture
from transformers_anymodality.features import FeatureStore
from transformers_anymodality.modalities import MODALITIES
from transformers_anymodality.systems import SYSTEMS
from transformers_anymodality.training.augment import spec_augment
from transformers_anymodality.training.callbacks import AnswersCallback, ThroughputCallback, by_modality
from transformers_anymodality.training.checkpoints import last_checkpoint
from transformers_anymodality.training.packing import AnyModalityPackingCollator
from transformers_anymodality.training.parts import parameter_groups


def setting(default: Any, text: str) -> Any:
    """A field of a dataclass with its help; mutable defaults are copied."""
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass
class ModelArguments:
    """What is trained: a composed checkpoint (`model`), a published system, or a composition of your own."""

    _argument_group_name = "the model"

    model: str | None = setting(None, "composed checkpoint, a folder or Hub id; instead of the five below")
    system: str | None = setting(None, f"published system: {', '.join(SYSTEMS)}; else language_model + modalities")
    options: dict | str | None = setting(None, "of the system's preset: towers, aligners, faithful, ...")
    language_model: dict | str | None = setting(
        None, "Hub id or folder, or {model_type: ..., sizes} for random weights"
    )
    tokenizer: str | None = setting(None, "Hub id or folder; found with the language model if left out")
    modalities: dict | str | None = setting(None, "modality -> settings, as `compose` takes them")
    load_in_4bit: bool = setting(False, "quantise the language model, frozen, to 4 bits (NF4) when it is loaded")
    dtype: str | None = setting(None, "of what is loaded: float32, bfloat16, ...; as the checkpoints say if left out")
    attn_implementation: str | None = setting(None, "sdpa, eager, flash_attention_2, flex_attention")


@dataclass
class DataArguments:
    """Chats: records with `messages` (or `conversations`) and media in their parts or in columns."""

    _argument_group_name = "the data"

    train_data: dict | str | None = setting(
        None, "JSON, JSONL, Parquet, shards, or a Hub id; or {source: weight, ...}, a mixture of several"
    )
    eval_data: str | None = setting(None, "likewise; its loss is logged for each set of modalities by itself")
    media_root: str | None = setting(None, "folder that relative paths of media are in")
    max_length: int | None = setting(None, "tokens per sample, media's included")
    on_overlong: str = setting("error", "for a longer sample: error, drop, truncate_text")
    on_error: str = setting("error", "for a sample that cannot be read: error, skip (and count)")
    features: str | None = setting(
        None, "folder that `anymodality features build` wrote: frozen towers' features are read, media are not"
    )
    spec_augment: dict | str | None = setting(
        None, "masks in the spectrograms of training, as torchaudio's SpecAugment takes them"
    )
    speeds: list[float] = setting([], "training data only: each sound once at each of these speeds, 0.9 1.0 1.1")
    packing: bool = setting(False, "several samples in a row of max_length tokens, which is exact or refused")
    show_answers: int = setting(3, "evaluation samples that the model answers at each evaluation, for you to read")
    learning_rates: dict | str | None = setting(
        None, "part -> learning rate, {aligners: 1e-3, language_model: 1e-5}; learning_rate for all others"
    )


class _Help(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Keeps the lines of the description, and shows defaults."""


def parse(description: str, stage: type, arguments: list[str] | None = None, **defaults) -> tuple[Any, ...]:
    """Reads the command line; what it does not set is as the YAML file of `--config` says, else as `defaults`.

    Returns:
        ModelArguments, DataArguments, an instance of `stage`, TrainingArguments.
    """
    parser = HfArgumentParser(
        [stage, ModelArguments, DataArguments, TrainingArguments],
        description=description,
        usage="%(prog)s [--config FILE.yaml] [--argument value ...]",
        formatter_class=_Help,
    )
    parser.add_argument("--config", help="YAML file with any of these arguments; the command line goes first")
    parser.add_argument("--import", help="module that registers modalities and towers of your own")
    parser.set_defaults(remove_unused_columns=False, **defaults)
    arguments = sys.argv[1:] if arguments is None else arguments
    file = parser.parse_known_args(arguments)[0].config
    if file:
        settings = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        if unknown := sorted(set(settings) - {action.dest for action in parser._actions}):
            raise ValueError(f"{file} has settings that no argument is called: {', '.join(unknown)}.")
        parser.set_defaults(**settings)
    chosen, model, data, training, rest = parser.parse_args_into_dataclasses(arguments, look_for_args_file=False)
    if module := getattr(rest, "import"):
        sys.path.insert(0, os.getcwd())
        importlib.import_module(module)
    for part in (model, data, chosen):
        for name, value in vars(part).items():
            if isinstance(value, str) and value.lstrip().startswith("{"):  # from the command line
                setattr(part, name, yaml.safe_load(value))
    set_seed(training.seed)  # what starts at random starts alike in each process
    training.include_num_input_tokens_seen = "non_padding"  # for tokens per second
    return model, data, chosen, training


def load_model(arguments: ModelArguments) -> tuple[Any, Any]:
    """The model and its processor, loaded or composed."""
    model, processor = _load_or_compose(arguments)
    if arguments.attn_implementation:
        model.set_attn_implementation(arguments.attn_implementation)
    return model, processor


def _load_or_compose(arguments: ModelArguments) -> tuple[Any, Any]:
    dtype = {} if arguments.dtype is None else {"dtype": arguments.dtype}
    quantised = {}
    if arguments.load_in_4bit:
        four_bits = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
        quantised = {"quantization_config": four_bits}
    if arguments.model:
        model = AutoModelForCausalLM.from_pretrained(arguments.model, **quantised, **dtype)
        return model, AutoProcessor.from_pretrained(arguments.model)
    if not (arguments.system or (arguments.language_model and arguments.modalities)):
        raise SystemExit("Say what to train: --model, --system, or --language_model and --modalities. See --help.")
    settings = {"language_model": arguments.language_model, "tokenizer": arguments.tokenizer, **dtype}
    if arguments.load_in_4bit:
        if not isinstance(arguments.language_model, str):
            raise SystemExit(
                "--load_in_4bit quantises weights that are loaded: --language_model must be a checkpoint."
            )
        settings["language_model"] = AutoModelForCausalLM.from_pretrained(
            arguments.language_model, **quantised, **dtype
        )
        settings["tokenizer"] = arguments.tokenizer or arguments.language_model
    if arguments.system:
        return compose_from({"system": arguments.system, "options": arguments.options, **settings})
    return compose_from({"modalities": arguments.modalities, **settings})


def load_data(arguments: DataArguments) -> tuple[Any, dict[str, Any] | None]:
    """Training data, and evaluation data by modality."""
    if not arguments.train_data:
        raise SystemExit("Say what to train on: --train_data FILE. See --help.")
    if isinstance(arguments.train_data, dict):
        shares = {name: float(weight) for name, weight in arguments.train_data.items()}
        train = mixture({name: name for name in shares}, shares, media_root=arguments.media_root)
    else:
        train = load(arguments.train_data, media_root=arguments.media_root)
    if not arguments.eval_data:
        return train, None
    return train, by_modality(load(arguments.eval_data, media_root=arguments.media_root))


def make_collator(model: Any, processor: Any, data: DataArguments) -> AnyModalityDataCollator:
    """Reads the media of a batch, or their features, and lays its samples out, padded or packed."""
    settings = {"max_length": data.max_length, "on_overlong": data.on_overlong, "on_error": data.on_error}
    if data.features:
        settings["features"] = FeatureStore(data.features, model)
    if data.packing:
        return AnyModalityPackingCollator(processor, model=model, **settings)
    return AnyModalityDataCollator(processor, **settings)


def make_trainer(model: Any, processor: Any, data: DataArguments, training: TrainingArguments) -> Trainer:
    """The stock Trainer: learning rates per part, speed in its log, answers at each evaluation."""
    train_set, eval_sets = load_data(data)
    if data.speeds:
        if not any(MODALITIES[name].medium == "audio" for name in processor.modalities):
            raise SystemExit(
                "--speeds: the model reads no sound; features of a speech encoder cannot be played faster."
            )
        train_set = at_speeds(train_set, data.speeds)
    if data.spec_augment:
        spec_augment(model, processor, **data.spec_augment)
    optimizer, settings = Trainer.get_optimizer_cls_and_kwargs(training, model)
    settings["params"] = parameter_groups(model, data.learning_rates or {}, training.weight_decay)
    trainer = Trainer(
        model=model,
        args=training,
        train_dataset=train_set,
        eval_dataset=eval_sets,
        data_collator=make_collator(model, processor, data),
        processing_class=processor,
        optimizer_cls_and_kwargs=(optimizer, settings),
    )
    ThroughputCallback().attach(trainer)
    if eval_sets and data.show_answers:
        shown = [sample for samples in eval_sets.values() for sample in samples.select(range(1))]
        AnswersCallback(shown[: data.show_answers]).attach(trainer)
    return trainer


def train(trainer: Trainer) -> None:
    """Trains, saves, publishes if told, and leaves the group of processes.

    With `--resume_from_checkpoint last`, it goes on from the newest whole checkpoint in the output folder, if there is one.
    With as many processes and the same batch sizes as before, log and weights are then those of a run that was never
    interrupted, bit for bit on a CPU: a checkpoint holds the states of optimizer, schedule and random numbers of each
    process, samples come in the order that the seed gives, and those that were seen are skipped.
    """
    training, checkpoint = trainer.args, trainer.args.resume_from_checkpoint
    if checkpoint == "last":
        checkpoint = last_checkpoint(training.output_dir)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        print(f"{training.output_dir}: checkpoint after {trainer.state.global_step} steps")
    if training.push_to_hub:
        trainer.push_to_hub()
    # Else gloo's threads may still free tensors while Python ends, which aborts the process.
    trainer.accelerator.end_training()
