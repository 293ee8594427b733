"""Shared by all replicas: a small language model that learns from text, training by the stock Trainer, questions, scores."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from digits_world.world import World
from peft import LoraConfig, get_peft_model
from quickstart import train
from rapidfuzz.distance import Levenshtein
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import LlamaConfig, PreTrainedTokenizerFast

from transformers_anymodality import set_trainable
from transformers_anymodality.training.parts import parameter_groups


@dataclass
class Lab:
    """Where one seed of a replica works.

    Args:
        folder: folder of this seed.
        shared: folder of the files that all seeds of this replica use.
        world: split ("train", "validation", "test") -> modality -> digit -> files. Choices (the best of several)
            are made on "validation"; claims are measured on "test".
        scale: share of all steps and questions. The claims need 1; 0.01 only tries the code.
        seed: random seed of weights, training data, its order, and questions.
    """

    folder: Path
    shared: Path
    world: World
    scale: float = 1.0
    seed: int = 0

    def rng(self, purpose: str) -> random.Random:
        """A random generator for one purpose, different for each seed."""
        return random.Random(f"{self.seed} {purpose}")

    def some(self, count: int, least: int = 2) -> int:
        """`count` steps, samples or questions, scaled."""
        return max(least, round(count * self.scale))

    def keep(self, model, processor) -> None:
        """Saves the checkpoint, so that it can be tried."""
        model.save_pretrained(self.folder / "model", processor=processor)


# --- the language model --------------------------------------------------------------------------------------------------


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Words, single digits and runs of punctuation of `texts` as tokens; give it the chat template among them."""
    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation("contiguous"),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    backend.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=special, show_progress=False))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def small_llama(tokenizer: PreTrainedTokenizerFast, **more) -> LlamaConfig:
    """An untrained language model of half a million parameters."""
    sizes = {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "initializer_range": 0.05,
    }
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    return LlamaConfig(vocab_size=len(tokenizer), **{**sizes, **ids, **more})


def teach_text(lab: Lab, model, processor, chats: list[dict], **more) -> list[dict]:
    """Trains the language model on chats of words alone, before it gets any modality.

    Noise on its embeddings (NEFTune) makes it tolerate tokens that are near a word, but are not one, as those of media.
    """
    return learn(
        lab, model, processor, chats, "language_model",
        **{"learning_rate": 3e-3, "per_device_train_batch_size": 64, "neftune_noise_alpha": 5, **more},
    )  # fmt: skip


# --- learning and answering ----------------------------------------------------------------------------------------------


def learn(
    lab: Lab, model, processor, chats: list[dict], *parts: str, rates: dict[str, float] | None = None, **more
) -> list[dict]:
    """One pass over `chats` in which only `parts` learn (names for `set_trainable`). Returns the Trainer's log.

    `rates` names them instead, each with its own learning rate.
    """
    set_trainable(model, list(parts or rates or ()), verbose=False)
    if rates:
        optimizer = (torch.optim.AdamW, {"params": parameter_groups(model, rates)})
        more["trainer"] = {"optimizer_cls_and_kwargs": optimizer}
    log = train(model, processor, chats, lab.folder / "trainer", seed=lab.seed, **more)
    model.eval()
    return log


def adapt(lab: Lab, model, processor, chats: list[dict], lora: LoraConfig, **more) -> tuple[Any, list[dict]]:
    """The same with LoRA. Returns the model with the adapter merged into it, and the Trainer's log."""
    adapted = get_peft_model(model, lora)
    log = train(adapted, processor, chats, lab.folder / "trainer", seed=lab.seed, **more)
    return adapted.merge_and_unload(), log


def chat(*turns: list[dict] | str, **columns) -> dict:
    """A chat of alternating turns, user first; a turn is text or content parts."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)], **columns}


@torch.no_grad()
def answers(model, processor, chats: list[dict], max_new_tokens: int = 4, batch: int = 60) -> list[str]:
    """The model's greedy answer in place of each chat's last turn."""
    model.eval()
    given = []
    for start in tqdm(range(0, len(chats), batch), desc="answer", leave=False):
        prompts = [chat["messages"][:-1] for chat in chats[start : start + batch]]
        inputs = processor.apply_chat_template(
            prompts, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        given += processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [" ".join(text.split()) for text in given]


def right(chats: list[dict], given: list[str]) -> list[bool]:
    """Whether each answer is the chat's last turn, word for word."""
    return [text == chat["messages"][-1]["content"] for chat, text in zip(chats, given, strict=True)]


def wrong_characters(chats: list[dict], given: list[str]) -> list[tuple[int, int]]:
    """For each answer: edits to the chat's last turn, and the length of that turn, both without spaces."""
    wanted = [chat["messages"][-1]["content"].replace(" ", "") for chat in chats]
    return [
        (Levenshtein.distance(one, text.replace(" ", "")), len(one)) for one, text in zip(wanted, given, strict=True)
    ]


def accuracy(chats: list[dict], given: list[str]) -> float:
    """For choices; claims take `right` itself."""
    marks = right(chats, given)
    return sum(marks) / len(marks)
