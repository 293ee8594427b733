"""Chats for a processor, and the rows of what it makes of them."""

import numpy as np
import torch

from modeling_tests import tiny


MODALITIES = ("audio", "depth", "image", "imu", "thermal", "video")


def plain(inputs) -> dict:
    return {name: torch.as_tensor(value).tolist() for name, value in inputs.items()}


def ids(row) -> list[int]:
    """The ids of one row of a batch without padding."""
    return row["input_ids"][row["attention_mask"].bool()].tolist()


def rows(inputs) -> list[list[int]]:
    return [ids({k: inputs[k][i] for k in ("input_ids", "attention_mask")}) for i in range(len(inputs["input_ids"]))]


def words(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def random_chats(count: int, seed: int) -> list[list[dict]]:
    """Chats of one to three turns, each of any words and media in any order."""
    rng = np.random.default_rng(seed)
    chats = []
    for _ in range(count):
        chat = []
        for turn in range(1 + 2 * int(rng.integers(0, 2))):
            parts = rng.choice([*MODALITIES, "what is this ?", "two", "yes and no"], size=rng.integers(1, 6)).tolist()
            chat += (
                tiny.chat(*parts, seed=int(rng.integers(0, 9)))
                if turn % 2 == 0
                else [{"role": "assistant", "content": "yes"}]
            )
        chats.append(chat)
    return chats
