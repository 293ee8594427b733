"""Composes the parts into one model, and trains it: aligners learn words, then LoRA learns instructions."""

import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from quickstart import train
from transformers import AutoModelForCausalLM, AutoProcessor, set_seed

from transformers_anymodality import compose, lora_config
from transformers_anymodality.features import FeatureStore, build_features
from transformers_anymodality.training.packing import AnyModalityPackingCollator

from . import words
from .motion import RATE
from .tasks import Question


# Row -> weight in the mix of stage 2.
MIX = {
    "speech": 7, "speech_foreign": 2, "translation": 2, "categories": 2, "yes_or_no": 2, "captions": 2, "names": 1,
    "motion": 3, "same": 1, "both": 2, "two_pictures": 2, "noisy": 1, "senses": 1, "prose": 1, "own": 5,
}  # fmt: skip
EPOCHS = {"audio": 8, "image": 12, "imu": 12}  # of stage 1
ROW = 2048  # tokens; eight samples have far fewer, so a step is one row
# Row lengths are multiples of this. With all lengths, free memory is soon in pieces of all sizes. The allocator searches
# these for each new tensor, and a step takes twice as long.
MULTIPLE = 64


def compose_parts(
    language_model: Any, parts: Path, statistics: dict[str, list[float]], available: set[str], tokenizer: Any = None
) -> tuple[Any, Any]:
    """Whisper's encoder for audio, cut to the recordings' length; EfficientNet for pictures; the IMU tower of this run."""
    modalities = {
        "image": {"tower": str(parts / "efficientnet"), "aligner": "mlp", "num_tokens": 4},
        "audio": {"tower": str(parts / "hearing"), "aligner": {"type": "mlp", "stride": 4, "intermediate_size": 1024},
                  "windows": 3},
        "imu": {"tower": str(parts / "motion"), "aligner": "mlp", "num_tokens": 2, "sampling_rate": RATE, **statistics},
    }  # fmt: skip
    return compose(language_model, {name: one for name, one in modalities.items() if name in available}, tokenizer)


def fast_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 natively, at least twice as fast as float32. Others emulate it slowly."""
    able = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


@dataclass
class Lesson:
    """Shared by all stages.

    Attributes:
        questions: row -> questions of the training split.
        text: row of the mix -> records without media.
        scale: share of all steps; 1 is the real run, 0.01 only tests the code.
    """

    model: Any
    processor: Any
    questions: dict[str, list[Question]]
    text: dict[str, list[dict]]
    folder: Path
    scale: float = 1.0
    features: FeatureStore | None = None
    logs: dict[str, list[dict]] = field(default_factory=dict)

    def keep_features(self, others: list[Question]) -> None:
        """Runs every medium of training and `others` through its tower, once. Whisper's tower may run in bfloat16: its
        features change by 1.5 %, those of a convolutional tower by 8 %."""
        questions = [question for row in self.questions.values() for question in row]
        records = [question.record for question in [*questions, *others]]
        place = self.folder / "features"
        for name in self.model.config.modalities:
            dtype = torch.bfloat16 if name == "audio" and fast_bf16() else None
            build_features(self.model, self.processor, records, place, modalities=[name], workers=1, dtype=dtype)
        self.features = FeatureStore(self.folder / "features", self.model)

    def learn_words(self) -> None:
        """Stage 1: each aligner alone, without running the language model."""
        for modality, questions in self._named().items():
            epochs = EPOCHS[modality] * self.scale
            self.logs[f"words of {modality}"] = words.train(
                self.model, self.processor, questions, self.features, self.folder / "trainer", epochs
            )

    def _named(self) -> dict[str, list[Question]]:
        """Modality -> questions with the words for each medium; for an emoji its category and its name."""
        rows = {name: self.questions.get(name, []) for name in MIX}
        names = {question.media[0]: question.answer for question in rows["names"]}
        emoji = [replace(one, answer=f"{one.answer}. {names.get(one.media[0], '')}") for one in rows["categories"]]
        named = {
            "audio": [*rows["speech"], *rows["speech_foreign"]],
            "image": [*emoji, *rows["captions"]],
            "imu": rows["motion"],
        }
        return {modality: questions for modality, questions in named.items() if questions}

    def instruct(self, steps: int = 600) -> None:
        """Stage 2: trains aligners further, and the language model by LoRA. Saves the model.

        A new process loads what stage 1 saved, so that memory which earlier stages left in pieces cannot slow its steps.
        """
        self.model.save_pretrained(self.folder / "words", processor=self.processor)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as new:
            lesson = replace(self, model=None, processor=None, features=None)
            self.logs["instruct"] = new.submit(_instruct, lesson, steps).result()
        self.model = AutoModelForCausalLM.from_pretrained(self.folder / "model")

    def train_on_mix(self, model: Any, steps: int, learning_rate: float, seed: int) -> list[dict]:
        """Trains the trainable parts of `model` on all rows and text, with the stock Trainer. Returns its log."""
        steps = max(2, round(steps * self.scale))
        samples = mixed({**self.questions, **self.text}, 8 * steps, seed)
        collator = AnyModalityPackingCollator(
            self.processor, model=model, max_length=ROW, features=self.features, pad_to_multiple_of=MULTIPLE
        )
        log = train(
            model, self.processor, samples, self.folder / "trainer", learning_rate,
            per_device_train_batch_size=8, logging_steps=20, dataloader_num_workers=0, seed=seed, bf16=fast_bf16(),
            trainer={"data_collator": collator},
        )  # fmt: skip
        model.eval()
        return log


def _instruct(lesson: Lesson, steps: int) -> list[dict]:
    """Stage 2 of a lesson whose stage 1 is saved. Returns its log."""
    set_seed(0)
    saved = lesson.folder / "words"
    lesson.model, lesson.processor = AutoModelForCausalLM.from_pretrained(saved), AutoProcessor.from_pretrained(saved)
    lesson.features = FeatureStore(lesson.folder / "features", lesson.model)
    adapted = get_peft_model(lesson.model, lora_config(lesson.model, r=16))
    log = lesson.train_on_mix(adapted, steps, 3e-4, seed=2)
    adapted.merge_and_unload().save_pretrained(lesson.folder / "model", processor=lesson.processor)
    return log


def mixed(questions: dict[str, list], count: int, seed: int) -> list[dict]:
    """Records drawn from the existing rows by `MIX`; a row repeats only after all its records were drawn."""
    rng, waiting, records = random.Random(seed), {}, []
    rows = [name for name in MIX if questions.get(name)]
    for name in rng.choices(rows, [MIX[name] for name in rows], k=count):
        if not waiting.get(name):
            waiting[name] = rng.sample(questions[name], len(questions[name]))
        one = waiting[name].pop()
        records.append(one.record if isinstance(one, Question) else one)
    return records
