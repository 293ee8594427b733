"""PandaGPT, mPLUG-Owl and Macaw-LLM at middle size: a forward pass over two samples, and 32 new tokens after a prompt.

The rivals are the systems' own codes, which do not install beside a current Transformers; what they took for the same
on a CPU with two threads stands beside as `original`, and is indicative. `benchmarks/macaw.py` restates one of them.

    .venv/bin/python benchmarks/systems.py [--rounds 5] [--threads 2]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import CLIPVisionConfig, LlamaConfig, PreTrainedTokenizerFast, WhisperConfig

from transformers_anymodality import AnyModalityForCausalLM, compose
from transformers_anymodality.systems import macaw_llm, mplug_owl, pandagpt
from transformers_anymodality.systems.mplug_owl.tower import MplugOwlVisionConfig
from transformers_anymodality.towers.imagebind import (
    ImageBindAudioConfig,
    ImageBindThermalConfig,
    ImageBindVisionConfig,
)


VOCABULARY, NEW_TOKENS, TEXT = 8000, 32, 64
# Seconds of the originals: forward, 32 new tokens.
ORIGINAL = {"pandagpt": (0.28, 0.57), "mplug_owl": (0.32, 0.65), "macaw_llm": (6.6, 2.2)}


def language() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=512, intermediate_size=1376, num_hidden_layers=8, num_attention_heads=8
    )


def tokenizer() -> PreTrainedTokenizerFast:
    words = {f"word{i}": i for i in range(VOCABULARY - 6)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, "word0")), bos_token="word1", eos_token="word2"
    )


def arguments(system: str) -> dict[str, Any]:
    """Of `compose`."""
    sizes = dict(hidden_size=384, num_hidden_layers=8, num_attention_heads=6)
    if system == "pandagpt":
        towers = {
            "image": ImageBindVisionConfig(**sizes),
            "audio": ImageBindAudioConfig(**{**sizes, "num_hidden_layers": 6}, logit_scale=None),
            "thermal": ImageBindThermalConfig(**{**sizes, "num_hidden_layers": 6}),
        }
        return pandagpt(language(), tokenizer(), modalities=["image", "audio", "thermal"], towers=towers)
    if system == "mplug_owl":
        tower = MplugOwlVisionConfig(**sizes, intermediate_size=1536)
        queries = {"depth": 4, "num_heads": 6, "intermediate_size": 1024}
        return mplug_owl(language(), tokenizer(), towers={"image": tower}, aligners=queries)
    clip = CLIPVisionConfig(**sizes, intermediate_size=1536, patch_size=16)
    whisper = WhisperConfig(d_model=384, encoder_layers=6, encoder_attention_heads=6, encoder_ffn_dim=1536)
    towers = {"image": clip, "video": clip, "audio": whisper}
    return macaw_llm(language(), tokenizer(), graph="current", towers=towers)


def batch(model: AnyModalityForCausalLM, modalities: tuple[str, ...], items: int) -> dict[str, torch.Tensor]:
    """`items` samples with one medium of each of these modalities and a text."""
    text = torch.randint(10, VOCABULARY - 10, (items, TEXT))
    places, inputs = [], {}
    for modality in modalities:
        row, config = model.config.modalities[modality], model.config.aligner_config(modality)
        count = config.count_tokens(row.num_frames, row.feature_length)
        places.append(torch.full((items, count), row.token_id))
        inputs[row.main_input] = torch.randn(items, *row.input_shape)
    ids = torch.cat([*places, text], 1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **inputs}


def seconds(run: Callable[[], Any], rounds: int) -> float:
    run()
    found = []
    for _ in range(rounds):
        begin = time.perf_counter()
        run()
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    print(f"{'system':<10} {'what':<24} {'ours':>8} {'original':>9} {'ratio':>6}")
    for system, originals in ORIGINAL.items():
        torch.manual_seed(0)
        model, _ = compose(**arguments(system))
        modalities = ("image", "audio", "video") if system == "macaw_llm" else ("image",)
        two, one = batch(model, modalities, 2), batch(model, modalities, 1)
        settings = dict(max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)
        labels = two["input_ids"].masked_fill(two["input_ids"] >= VOCABULARY - 6, -100)
        with torch.no_grad():
            forward = seconds(lambda: model(**two, labels=labels), chosen.rounds)  # noqa: B023
            generation = seconds(lambda: model.generate(**one, **settings), chosen.rounds)  # noqa: B023
        for what, ours, theirs in zip(
            ("forward, two samples", "32 new tokens"), (forward, generation), originals, strict=True
        ):
            print(f"{system:<10} {what:<24} {ours:>7.3f}s {theirs:>8.2f}s {ours / theirs:>6.2f}")


if __name__ == "__main__":
    main()
