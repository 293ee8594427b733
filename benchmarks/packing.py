"""A training step on packed rows, against one on the same samples in padded rows.

Lengths are as instruction data have them: many short answers, few long ones (log-normal, median 90 tokens), and an image
of 32 tokens in two of three samples, its features given. Language model and aligner are trained.

    .venv/bin/python benchmarks/packing.py [--rounds 5] [--batch 32] [--max-length 512] [--threads 2]
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import CLIPImageProcessor, CLIPVisionConfig, LlamaConfig, PreTrainedTokenizerFast

from transformers_anymodality import AnyModalityDataCollator, compose, set_trainable
from transformers_anymodality.training.packing import AnyModalityPackingCollator


WORDS, TOKENS = 4000, 32


def build():
    """A language model of 16 million parameters, with random weights; images are small, as their tower is not trained."""
    torch.manual_seed(0)
    words = ["<s>", "</s>", *(f"word{i}" for i in range(WORDS - 2))]
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, "word0"))
    backend.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    language = LlamaConfig(
        vocab_size=WORDS, hidden_size=384, intermediate_size=1024, num_hidden_layers=7, num_attention_heads=6
    )
    image = {"tower": vision, "processor": images, "aligner": "perceiver_resampler", "num_tokens": TOKENS}
    model, processor = compose(language, {"image": image}, tokenizer=tokenizer)
    set_trainable(model, ["aligners", "language_model"], verbose=False)
    return model.train(), processor


def samples(count: int, longest: int, rng: np.random.Generator) -> list[dict]:
    rows = []
    for i in range(count):
        said = int(np.clip(rng.lognormal(np.log(90), 0.8), 8, longest - TOKENS - 40))
        words = [" ".join(f"word{w}" for w in rng.integers(0, WORDS - 2, n)) for n in (rng.integers(8, 30), said)]
        image = [{"type": "image", "image": rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)}] if i % 3 else []
        content = [*image, {"type": "text", "text": f" {words[0]}"}]
        rows.append({"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": words[1]}]})
    return rows


def step(model, optimizer, batch: dict[str, torch.Tensor]) -> float:
    optimizer.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rounds", 5), ("batch", 32), ("max-length", 512), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, processor = build()
    rng = np.random.default_rng(0)
    collators = {
        "packed": AnyModalityPackingCollator(processor, max_length=arguments.max_length, model=model),
        "padded": AnyModalityDataCollator(processor, max_length=arguments.max_length),
    }
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    times: dict[str, list[float]] = {name: [] for name in collators}
    shapes: dict[str, list[list[int]]] = {name: [] for name in collators}
    tokens = []
    for index in range(-1, arguments.rounds):
        rows = samples(arguments.batch, arguments.max_length, rng)
        losses = {}
        for name, collator in collators.items():
            batch = collator(rows)
            start = time.perf_counter()
            losses[name] = step(model, optimizer, batch)
            if index >= 0:  # the first is the warm-up
                times[name].append(time.perf_counter() - start)
                shapes[name].append(list(batch["input_ids"].shape))
            if name == "padded" and index >= 0:
                tokens.append(int(batch["attention_mask"].sum()))
        assert abs(losses["packed"] - losses["padded"]) < 1e-4, losses
    print(
        f"{platform.processor() or platform.machine()}, {arguments.threads} threads, {arguments.batch} samples a step"
    )
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, float32, sdpa")
    for name in collators:
        places = statistics.mean(rows * length for rows, length in shapes[name])
        speed = statistics.median(n / t for n, t in zip(tokens, times[name], strict=True))
        print(f"{name:>7}: {statistics.mean(tokens) / places:.0%} of places are tokens, {speed:,.0f} tokens/s")
    ratios = sorted(mine / other for mine, other in zip(times["packed"], times["padded"], strict=True))
    print(f"packed / padded time = {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    output = Path("outputs") / "benchmarks" / "packing.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    results = {"seconds": times, "shapes": shapes, "tokens": tokens, "ratios": ratios}
    output.write_text(json.dumps({"settings": vars(arguments), **results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
