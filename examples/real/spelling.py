"""Stage 1: the speech aligner learns to spell, before a language model listens.

A recogniser that is trained in front of a language model alone learns slowly: its tokens mean nothing at first. X-LLM
(arXiv 2305.04160, section 3.2) trains the interface as a recogniser first. Here CTC does it (Graves et al. 2006), and the
classes are the language model's own words: a token's score for a word falls with its squared distance to the word's
embedding. So what the aligner says lies where the language model has learnt to read.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer, TrainingArguments

from transformers_anymodality import set_trainable
from transformers_anymodality.features import FeatureStore

from .tasks import Question


class Spelling(nn.Module):
    """The composite's audio path with a CTC loss over those words that the texts hold, and a blank.

    Args:
        words: `(words,)` int64, their ids in the language model's vocabulary.
    """

    def __init__(self, model: nn.Module, words: torch.Tensor, drop: float = 0.1):
        super().__init__()
        self.model, self.drop = model, drop
        self.register_buffer("table", model.get_input_embeddings().weight.detach()[words].clone())
        self.register_buffer("unit", self.table.var(0).sum())  # of distances: that of words to their mean
        self.blank = nn.Parameter(torch.randn(self.table.shape[1]) * self.table.std())
        self.sharpness = nn.Parameter(torch.tensor(3.0))

    def forward(self, labels: torch.Tensor, label_lengths: torch.Tensor, **media: torch.Tensor) -> dict[str, Any]:
        """
        Args:
            labels: `(all words of all texts,)`, 1 for the first of `words`; 0 is the blank.
            label_lengths: `(items,)`.
            media: arguments of `get_modality_features`.
        """
        if self.training:  # frames that were not heard
            features = media["features"]
            media["features"] = features * (
                torch.rand(features.shape[:-1], device=features.device) > self.drop
            ).unsqueeze(-1)
        spoken = self.model.get_modality_features("audio", **media, return_dict=True).pooler_output
        lengths = torch.tensor([len(tokens) for tokens in spoken])
        classes = torch.cat([self.blank[None], self.table])
        tokens = pad_sequence(list(spoken), batch_first=True)
        # The squared distance, by products of matrices.
        distances = tokens.square().sum(-1, keepdim=True) - 2 * tokens @ classes.T + classes.square().sum(-1)
        scores = (-self.sharpness.exp() * distances / self.unit).log_softmax(-1)
        loss = nn.functional.ctc_loss(scores.transpose(0, 1), labels, lengths, label_lengths, zero_infinity=True)
        return {"loss": loss, "scores": scores}


class SpellingCollator:
    """Questions -> features out of the store, and their answers' words."""

    def __init__(self, processor: Any, features: FeatureStore, words: torch.Tensor):
        self.processor, self.features = processor, features
        self.place = {word: i + 1 for i, word in enumerate(words.tolist())}

    def __call__(self, questions: list[Question]) -> dict[str, torch.Tensor]:
        paths = [question.media[0][1] for question in questions]
        inputs, _ = self.features.inputs(self.processor, {"audio": paths})
        spelt = [[self.place[word] for word in spell(self.processor, question)] for question in questions]
        return {
            **{name.removeprefix("audio_"): value for name, value in inputs.items()},
            "labels": torch.tensor([word for words in spelt for word in words]),
            "label_lengths": torch.tensor([len(words) for words in spelt]),
        }


def spell(processor: Any, question: Question) -> list[int]:
    """The answer's words as ids of the language model's vocabulary."""
    return processor.tokenizer.encode(question.answer, add_special_tokens=False)


def train(
    model: nn.Module, processor: Any, questions: list[Question], features: FeatureStore, folder: Path, epochs: float
) -> list[dict]:
    """The stock Trainer over questions about one recording each. Returns its log."""
    words = torch.tensor(sorted({word for question in questions for word in spell(processor, question)}))
    set_trainable(model, ["audio_aligner"], verbose=False)
    trainer = Trainer(
        model=Spelling(model, words),
        args=TrainingArguments(
            output_dir=str(folder), num_train_epochs=epochs, per_device_train_batch_size=32, learning_rate=2e-3,
            lr_scheduler_type="cosine", warmup_steps=50, weight_decay=0.05, logging_steps=50, save_strategy="no",
            report_to="none", remove_unused_columns=False, use_cpu=True, seed=0,
        ),
        train_dataset=questions,
        data_collator=SpellingCollator(processor, features, words),
    )  # fmt: skip
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]
