"""Stage 1: aligners learn the language model's words, without running it.

An aligner that is trained only through a language model learns slowly: its tokens mean nothing at first, and each step
costs a run of the language model. X-LLM (arXiv 2305.04160, section 3.2) trains the interface as a recogniser first. Here
each aligner learns to predict the words of the answer, and the classes are the language model's own words: a token's score
for a word falls with its squared distance to the word's embedding. So the aligner's tokens lie where the language model has
learnt to read. Audio tokens give the words in order, by CTC (Graves et al. 2006); in other modalities any token may give a
word.
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


class Words(nn.Module):
    """The composite's path of one modality, with a loss over the words in the texts, and a blank.

    Args:
        words: `(words,)` int64, their ids in the language model's vocabulary.
        ordered: whether tokens give the words in order.
    """

    def __init__(self, model: nn.Module, modality: str, words: torch.Tensor, ordered: bool, drop: float = 0.2):
        super().__init__()
        self.model, self.modality, self.ordered, self.drop = model, modality, ordered, drop
        self.register_buffer("table", model.get_input_embeddings().weight.detach()[words].clone())
        self.register_buffer("unit", self.table.var(0).sum())  # unit of distances: that of words to their mean
        self.blank = nn.Parameter(torch.randn(self.table.shape[1]) * self.table.std())
        self.sharpness = nn.Parameter(torch.tensor(3.0))

    def forward(self, labels: torch.Tensor, label_lengths: torch.Tensor, **media: torch.Tensor) -> dict[str, Any]:
        """
        Args:
            labels: `(all words of all texts,)`, 1 for the first of `words`; 0 is the blank.
            label_lengths: `(items,)`.
            media: arguments of `get_modality_features`.
        """
        if self.training:  # drops some features
            features = media["features"]
            kept = torch.rand(features.shape[:-1], device=features.device) > self.drop
            media["features"] = features * kept.unsqueeze(-1)
        said = self.model.get_modality_features(self.modality, **media, return_dict=True).pooler_output
        lengths = torch.tensor([len(tokens) for tokens in said])
        classes = torch.cat([self.blank[None], self.table])
        tokens = pad_sequence(list(said), batch_first=True)
        # The squared distance, by matrix products.
        distances = tokens.square().sum(-1, keepdim=True) - 2 * tokens @ classes.T + classes.square().sum(-1)
        scores = (-self.sharpness.exp() * distances / self.unit).log_softmax(-1)
        if self.ordered:
            loss = nn.functional.ctc_loss(scores.transpose(0, 1), labels, lengths, label_lengths, zero_infinity=True)
        else:
            items = torch.repeat_interleave(torch.arange(len(said)), label_lengths)
            by_any = scores.logsumexp(1) - lengths[:, None].log()  # mean probability of a word over tokens
            loss = -by_any[items, labels].mean()
        return {"loss": loss, "scores": scores}


class WordsCollator:
    """Questions -> features from the store, and the words of the answers."""

    def __init__(self, processor: Any, features: FeatureStore, words: torch.Tensor):
        self.processor, self.features = processor, features
        self.place = {word: i + 1 for i, word in enumerate(words.tolist())}

    def __call__(self, questions: list[Question]) -> dict[str, torch.Tensor]:
        ((modality, _),) = questions[0].media
        inputs, _ = self.features.inputs(self.processor, {modality: [question.media[0][1] for question in questions]})
        spelt = [[self.place[word] for word in spell(self.processor, question)] for question in questions]
        return {
            **{name.removeprefix(f"{modality}_"): value for name, value in inputs.items()},
            "labels": torch.tensor([word for words in spelt for word in words]),
            "label_lengths": torch.tensor([len(words) for words in spelt]),
        }


def spell(processor: Any, question: Question) -> list[int]:
    """The answer's words as ids in the language model's vocabulary."""
    return processor.tokenizer.encode(question.answer, add_special_tokens=False)


def train(
    model: nn.Module,
    processor: Any,
    questions: list[Question],
    features: FeatureStore,
    folder: Path,
    epochs: float,
) -> list[dict]:
    """Trains with the stock Trainer on questions about one medium each, all of one modality. Returns its log."""
    words = torch.tensor(sorted({word for question in questions for word in spell(processor, question)}))
    ((modality, _),) = questions[0].media
    set_trainable(model, [f"{modality}_aligner"], verbose=False)
    trainer = Trainer(
        model=Words(model, modality, words, ordered=modality == "audio"),
        args=TrainingArguments(
            output_dir=str(folder), num_train_epochs=epochs, per_device_train_batch_size=32, learning_rate=2e-3,
            lr_scheduler_type="cosine", warmup_steps=50, weight_decay=0.05, logging_steps=50, save_strategy="no",
            report_to="none", remove_unused_columns=False, use_cpu=True, seed=0,
        ),
        train_dataset=questions,
        data_collator=WordsCollator(processor, features, words),
    )  # fmt: skip
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]
