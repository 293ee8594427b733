"""Tiny data and runs for TRL's trainers."""

from typing import Any

import torch
import trl
from datasets import Dataset, disable_progress_bars
from PIL import Image
from transformers import PreTrainedModel

from modeling_tests import tiny
from transformers_anymodality.training.trl import _Collator, with_media


disable_progress_bars()
# Modality -> a medium as a data set has it in a column.
MEDIA = {
    "image": lambda seed: Image.fromarray(tiny.medium("image", seed)),
    "audio": lambda seed: tiny.medium("audio", seed).tolist(),
    "imu": lambda seed: tiny.medium("imu", seed).tolist(),
}
WORDS = ("one", "two", "three", "four", "five", "six")


def says(words: str) -> list[dict]:
    return [{"role": "assistant", "content": [{"type": "text", "text": words}]}]


def asks(*modalities: str, plain: bool = False) -> list[dict]:
    if plain:
        return [{"role": "user", "content": "what is this ?"}]
    parts = [{"type": name, "text": None} for name in modalities]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": " what is this ?"}]}]


def records(kind: str, *modalities: str, count: int = 4, plain: bool = False) -> list[dict[str, Any]]:
    """Records of that kind; the media of each are its own, in columns; answers differ in length.

    Args:
        modalities: of the media of each record, in their order.
    """
    made = []
    for i in range(count):
        prompt, word = asks(*modalities, plain=plain), WORDS[i % len(WORDS)]
        answer = [{"role": "assistant", "content": word}] if plain else says(word)
        record: dict[str, Any] = {
            "messages": {"messages": [*prompt, *answer]},
            "completion": {"prompt": prompt, "completion": answer},
            "label": {"prompt": prompt, "completion": says(" ".join(WORDS[: 1 + i])), "label": i % 2 == 0},
            "pair": {"prompt": prompt, "chosen": says(word), "rejected": says(f"no {word} and no")},
            "prompt": {"prompt": prompt},
        }[kind]
        for place, name in enumerate(modalities):
            record.setdefault(tiny.ARGUMENTS[name], []).append(MEDIA[name](10 * i + place))
        made.append(record)
    return made


KINDS = {"SFT": "messages", "DPO": "pair", "KTO": "label", "GRPO": "prompt", "RLOO": "prompt"}
_GENERATING = {"num_generations": 2, "max_completion_length": 4, "temperature": 1.0, "log_completions": True}


def trainer(
    name: str,
    model: PreTrainedModel,
    processor: Any,
    data: list[dict] | Any,
    folder: Any,
    stock: bool = False,
    **given: Any,
) -> Any:
    """A trainer of two steps. `given`: arguments of the trainer's config and of the trainer itself."""
    generating = name in ("GRPO", "RLOO")
    settings = {
        "output_dir": str(folder),
        "max_steps": 2,
        "per_device_train_batch_size": 4 if generating else 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        **(_GENERATING if generating else {}),
    }
    own = (
        "ref_model",
        "reward_funcs",
        "rollout_func",
        "peft_config",
        "compute_metrics",
        "eval_dataset",
        "data_collator",
    )
    rest = {key: given.pop(key) for key in own if key in given}
    if generating:
        rest.setdefault("reward_funcs", longer)
    cls = getattr(trl, f"{name}Trainer")
    return (cls if stock else with_media(cls))(
        model,
        args=getattr(trl, f"{name}Config")(**{**settings, **given}),
        train_dataset=Dataset.from_list(data) if isinstance(data, list) else data,
        processing_class=processor,
        **rest,
    )


def longer(completions: list, **columns: Any) -> list[float]:
    """A reward that differs between answers."""
    return [float(sum(map(ord, str(completion)))) for completion in completions]


def changed(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    """Names of the weights that are no longer what they were."""
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def collator_of(processor: Any, **settings: Any) -> Any:
    """What `with_media` hands to trainers."""
    return _Collator(processor, **settings)
