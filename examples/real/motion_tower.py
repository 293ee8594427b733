"""A small IMU tower, trained on the motion of the training subjects with the stock Trainer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import EarlyStoppingCallback, PatchTSTConfig, PatchTSTForClassification, Trainer, TrainingArguments

from transformers_anymodality.modalities import MODALITIES

from .motion import RATE, SECONDS


def read(items: list[dict[str, Any]], config: PatchTSTConfig, statistics: dict[str, list[float]]) -> torch.Tensor:
    """Recordings as the tower's input, `(items, samples, channels)` float32."""
    spec = MODALITIES["imu"]
    options = {**spec.options, "sampling_rate": RATE, **statistics}
    processor = spec.default_processor(config, options)
    recordings = [spec.read(item["imu"], processor, options) for item in items]
    return next(iter(spec.extract(recordings, processor, options).values()))


def train(splits: dict[str, list[dict[str, Any]]], folder: Path, seed: int = 0) -> dict[str, list[float]]:
    """Trains the tower to classify exercises, and saves it without its head in `folder`: the best epoch on the validation
    subject. An existing tower is reused, so that its stored features stay valid.

    Returns:
        Mean and standard deviation of each channel over the training split, as options of the IMU modality.
    """
    written = folder / "statistics.json"
    if written.is_file():
        return json.loads(written.read_text())
    names = sorted({item["exercise"] for item in splits["train"]})
    config = PatchTSTConfig(
        num_input_channels=6, context_length=round(RATE * SECONDS), patch_length=25, patch_stride=25, d_model=96,
        num_hidden_layers=3, num_attention_heads=4, ffn_dim=192, channel_attention=True, scaling=None,
        num_targets=len(names), use_cls_token=False, pooling_type="mean", dropout=0.2, ff_dropout=0.2, head_dropout=0.2,
    )  # fmt: skip
    plain = read(splits["train"], config, {}).flatten(0, 1)
    statistics = {"mean": plain.mean(0).tolist(), "std": plain.std(0).tolist()}
    datasets = {}
    for split in ("train", "validation"):
        values = read(splits[split], config, statistics)
        targets = [names.index(item["exercise"]) for item in splits[split]]
        datasets[split] = [{"past_values": x, "target_values": y} for x, y in zip(values, targets, strict=True)]
    torch.manual_seed(seed)
    trainer = Trainer(
        model=PatchTSTForClassification(config),
        args=TrainingArguments(
            output_dir=str(folder.with_name("motion_trainer")), num_train_epochs=25, per_device_train_batch_size=32,
            learning_rate=2e-3, lr_scheduler_type="cosine", warmup_steps=20, weight_decay=0.05, eval_strategy="epoch",
            save_strategy="epoch", save_total_limit=1, load_best_model_at_end=True, metric_for_best_model="accuracy",
            label_names=["target_values"], report_to="none", use_cpu=True, seed=seed, disable_tqdm=False,
        ),
        train_dataset=datasets["train"],
        eval_dataset=datasets["validation"],
        compute_metrics=lambda seen: {"accuracy": float((_logits(seen).argmax(-1) == seen.label_ids).mean())},
        callbacks=[EarlyStoppingCallback(8)],
    )  # fmt: skip
    trainer.train()
    trainer.model.model.save_pretrained(folder)
    written.write_text(json.dumps(statistics))
    return statistics


def _logits(seen: Any) -> np.ndarray:
    return seen.predictions[0] if isinstance(seen.predictions, tuple) else seen.predictions
