"""Writes what the recipes in `recipes/small` train on: a handful of files of each modality, chats about them, a tokenizer.

    python examples/small_data.py [--output outputs/small]

Takes a second. Nothing is to be learned from it: it is there to try a recipe, or a change to one, before you pay for a GPU.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from digits_world.world import _write_video as write_video
from PIL import Image
from soundfile import write as write_sound
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


NAMES = ("red", "green", "blue", "grey")
MODALITIES = ("image", "video", "audio", "imu", "speech")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Reads any text, byte by byte."""
    words = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", add_bos_token=True
    )


def write_medium(modality: str, file: Path, rng: np.random.Generator) -> Path:
    """A file of noise, and its path."""
    if modality == "image":
        file = file.with_suffix(".png")
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(file)
    elif modality == "video":
        file = file.with_suffix(".mp4")
        write_video(file, list(rng.integers(0, 255, (16, 48, 64, 3), dtype=np.uint8)))
    elif modality == "audio":
        file = file.with_suffix(".wav")
        write_sound(file, rng.uniform(-0.5, 0.5, 8000).astype(np.float32), 16000)
    elif modality == "imu":
        file = file.with_suffix(".csv")
        names = [f"{sensor}{axis}" for sensor in "ag" for axis in "xyz"]
        readings = np.column_stack([np.arange(400) / 200, rng.standard_normal((400, 6))])
        np.savetxt(file, readings, fmt="%.4f", delimiter=",", header=",".join(("time", *names)), comments="")
    else:  # features of a speech encoder, one row per spoken token
        file = file.with_suffix(".npy")
        np.save(file, rng.standard_normal((7, 16)).astype(np.float32))
    return file


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/small"), help="folder for all that is made")
    folder = parser.parse_args(arguments).output
    folder.mkdir(parents=True, exist_ok=True)
    make_tokenizer().save_pretrained(folder / "tokenizer")
    rng, records = np.random.default_rng(0), {}
    for modality in (*MODALITIES, "text"):
        records[modality] = []
        for i, name in enumerate(NAMES):
            part = {} if modality == "text" else {"type": modality}
            if part:
                part["path"] = write_medium(modality, folder / f"{modality}_{i}", rng).name
            content = [
                *([part] if part else []),
                {"type": "text", "text": "What is it ?" if part else f"Say {name} ."},
            ]
            records[modality].append(
                {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": name}]}
            )
        text = "".join(json.dumps(record) + "\n" for record in records[modality])
        (folder / f"{modality}.jsonl").write_text(text)
    print(
        f"{folder}: {len(NAMES)} chats each about {', '.join(MODALITIES)} and text, to try recipes; answers stay noise"
    )


if __name__ == "__main__":
    main()
