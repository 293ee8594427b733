"""The parts composed into one model, and its training: speech spelt, aligners aligned, LoRA instructed."""

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft import get_peft_model
from quickstart import train

from transformers_anymodality import compose, lora_config, set_trainable
from transformers_anymodality.features import FeatureStore, build_features

from . import spelling
from .motion import RATE
from .tasks import Question


# Row -> weight in the mix of stages 2 and 3.
MIX = {
    "speech": 3, "speech_foreign": 3, "translation": 3, "categories": 2, "yes_or_no": 1, "captions": 2, "names": 2,
    "motion": 1, "same": 2, "both": 1, "text": 2,
}  # fmt: skip


def compose_parts(
    language_model: str, parts: Path, statistics: dict[str, list[float]], available: set[str]
) -> tuple[Any, Any]:
    """Whisper's encoder for sound, cut to what was recorded; EfficientNet for pictures; the IMU tower of this run."""
    modalities = {
        "image": {"tower": str(parts / "efficientnet"), "aligner": "mlp", "num_tokens": 4},
        "audio": {"tower": str(parts / "whisper"), "aligner": {"type": "mlp", "stride": 4, "intermediate_size": 1024},
                  "windows": 1},
        "imu": {"tower": str(parts / "motion"), "aligner": "mlp", "num_tokens": 2, "sampling_rate": RATE, **statistics},
    }  # fmt: skip
    return compose(language_model, {name: one for name, one in modalities.items() if name in available})


@dataclass
class Lesson:
    """What all stages share.

    Attributes:
        questions: row -> questions of the training split.
        text: records without media, a row of the mix, too.
        scale: share of all steps; 1 for real, 0.01 only tries the code.
    """

    model: Any
    processor: Any
    questions: dict[str, list[Question]]
    text: list[dict]
    folder: Path
    scale: float = 1.0
    features: FeatureStore | None = None
    logs: dict[str, list[dict]] = field(default_factory=dict)

    def keep_features(self, others: list[Question]) -> None:
        """Every medium through its tower, once: those of training and `others`."""
        questions = [question for row in self.questions.values() for question in row]
        records = [question.record for question in [*questions, *others]]
        build_features(self.model, self.processor, records, self.folder / "features", workers=1)
        self.features = FeatureStore(self.folder / "features", self.model)

    def spell(self, epochs: float = 12) -> None:
        """Stage 1."""
        questions = [*self.questions["speech"], *self.questions["speech_foreign"]]
        if questions:
            self.logs["spell"] = spelling.train(
                self.model, self.processor, questions, self.features, self.folder / "trainer", epochs * self.scale
            )

    def align(self, steps: int = 200) -> None:
        """Stage 2: aligners alone, in front of the frozen language model."""
        set_trainable(self.model, "aligners", verbose=False)
        self.logs["align"] = self._train(self.model, steps, 1e-3, seed=1)

    def instruct(self, steps: int = 120) -> None:
        """Stage 3: aligners go on, and LoRA lets the language model come to meet them."""
        adapted = get_peft_model(self.model, lora_config(self.model, r=16))
        self.logs["instruct"] = self._train(adapted, steps, 3e-4, seed=2)
        self.model = adapted.merge_and_unload()

    def _train(self, model: Any, steps: int, learning_rate: float, seed: int) -> list[dict]:
        steps = max(2, round(steps * self.scale))
        samples = mixed({**self.questions, "text": self.text}, 16 * steps, seed)
        log = train(
            model, self.processor, samples, self.folder / "trainer", learning_rate, self.features,
            per_device_train_batch_size=16, logging_steps=10, dataloader_num_workers=0, seed=seed,
        )  # fmt: skip
        model.eval()
        return log


def mixed(questions: dict[str, list], count: int, seed: int) -> list[dict]:
    """Records drawn by `MIX` of the rows that there are; each row is gone through before any of it comes again."""
    rng, waiting, records = random.Random(seed), {}, []
    rows = [name for name in MIX if questions.get(name)]
    for name in rng.choices(rows, [MIX[name] for name in rows], k=count):
        if not waiting.get(name):
            waiting[name] = rng.sample(questions[name], len(questions[name]))
        one = waiting[name].pop()
        records.append(one.record if isinstance(one, Question) else one)
    return records
