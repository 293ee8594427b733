"""Stage 1 with a language model in 4 bits, against full precision (AnyMAL, arXiv 2309.16058, section 3.1).

    make real ARGS=--four-bits

Run it after `make real`, whose parts and features it reads. Both learn from the same samples and the same initial weights.
They are compared by the mean loss per word of the right answers to held-out questions, question by question. The control
is untrained.
"""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, set_seed

from transformers_anymodality import AnyModalityDataCollator, set_trainable
from transformers_anymodality.features import FeatureStore

from . import data, motion_tower, results, tasks
from .answers import likelihoods
from .learn import Lesson, compose_parts


ROWS = ("categories", "names", "captions", "motion")  # without speech, which needs a separate stage first


def composed(language_model: Path, parts: Path, statistics: dict, four_bits: bool) -> tuple[Any, Any]:
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4") if four_bits else None
    loaded = AutoModelForCausalLM.from_pretrained(language_model, quantization_config=settings)
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    return compose_parts(loaded, parts, statistics, {"image", "imu"}, tokenizer)


def run(parts: Path, output: Path, steps: int = 80) -> dict[str, Any]:
    """Writes `four_bits.json` and prints its content.

    Args:
        parts: folder of the parts from `make real`.
        output: folder of the results of `make real`; its features are read.
        steps: training steps of 8 samples each.
    """
    sets = data.load(["stamps", "emoji", "watch"], parts)
    statistics = motion_tower.train(sets["watch"], parts / "motion")
    train, test = (tasks.kinds(sets, split, seed=0) for split in ("train", "test"))
    asked = [
        question.record for row in ROWS for question in random.Random(5).sample(test[row], min(60, len(test[row])))
    ]
    known = {}
    for name, four_bits in (("full precision", False), ("4 bits", True)):
        print(f"Stage 1, language model in {name}", flush=True)
        model, processor = composed(parts / "language_model", parts, statistics, four_bits)
        questions = {row: train[row] for row in ROWS}
        lesson = Lesson(model, processor, questions, {}, output / "four_bits")
        lesson.features = FeatureStore(output / "features", model)
        collate = AnyModalityDataCollator(processor, features=lesson.features, skip_logits=False)
        if not known:
            known["untaught"] = likelihoods(model, collate, asked, batch=16)
        set_trainable(model, "aligners", verbose=False)
        lesson.train_on_mix(model, steps, 1e-3, seed=1)
        known[name] = likelihoods(model, collate, asked, batch=16)
    found = compared({name: [-one for one in own] for name, own in known.items()})
    (output / "four_bits.json").write_text(json.dumps(found, indent=2))
    print(f"Loss of a word: {found['loss']:.3f} in 4 bits, {found['full_precision']:.3f} in full precision, "
          f"{found['control']:.3f} untaught; {found['worse_by']:+.3f} ({found['interval'][0]:+.3f} to "
          f"{found['interval'][1]:+.3f}), {found['n']} questions.")  # fmt: skip
    return found


def compared(losses: dict[str, list[float]]) -> dict[str, Any]:
    """`{loss, full_precision, control, worse_by, interval, n}`; the interval is for the difference, paired by questions."""
    rows = {name: np.stack([values, np.ones(len(values))], 1) for name, values in losses.items()}
    row = results.row("loss", rows["4 bits"], rows["full precision"], rows["untaught"], ("untaught", "full precision"))
    return {
        "loss": row["loss"],
        "full_precision": row["control"],
        "control": row["rival"],
        "worse_by": row["over_control"],
        "interval": row["over_control_interval"],
        "n": row["n"],
    }
