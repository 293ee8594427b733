"""Samples, and the stock Trainer on them."""

from transformers import Trainer, TrainingArguments

from modeling_tests import tiny
from transformers_anymodality import AnyModalityDataCollator


def samples(count: int = 8) -> list[dict]:
    """Chats with changing sets of media, none among them."""
    kinds = [("image", "what is this ?"), ("what ?",), ("audio", "and", "image", "what ?"), ("imu", "image", "image")]
    return [
        {"messages": tiny.chat(*kinds[i % len(kinds)], seed=i, answer=f"{tiny.WORDS[13 + i % 10]} </s>".split()[0])}
        for i in range(count)
    ]


def trainer(model, processor, folder, **kwargs) -> Trainer:
    settings = dict(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        remove_unused_columns=False,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
    )
    return Trainer(
        model=model,
        args=TrainingArguments(**{**settings, **kwargs}),
        train_dataset=samples(),
        eval_dataset=samples(4),
        data_collator=AnyModalityDataCollator(processor),
        processing_class=processor,
    )
