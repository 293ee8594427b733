"""A stage-1 step that reads features from a store, against one that runs its tower and one that has no tower at all.

The same model, the same samples, images in files. "Tower" reads and encodes the images in each step; "store" hashes
nothing and decodes nothing, but reads features from shards; "none" is given batches made beforehand, with features in
memory: what aligner and language model alone cost. Steps are whole: collator, forward, backward, optimizer.

    .venv/bin/python benchmarks/feature_store.py [--rounds 5] [--batch 8] [--threads 2]
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import CLIPImageProcessor, CLIPVisionConfig, LlamaConfig, PreTrainedTokenizerFast

from transformers_anymodality import AnyModalityDataCollator, compose, parts_table, set_trainable
from transformers_anymodality.features import FeatureStore, build_features


WORDS, TOKENS = 4000, 32


def build():
    """A tower of 18 and a language model of 16 million parameters, with random weights."""
    torch.manual_seed(0)
    words = ["<s>", "</s>", *(f"word{i}" for i in range(WORDS - 2))]
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, "word0"))
    backend.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    vision = CLIPVisionConfig(
        hidden_size=384, intermediate_size=1536, num_hidden_layers=10, num_attention_heads=6, patch_size=16
    )
    language = LlamaConfig(
        vocab_size=WORDS, hidden_size=384, intermediate_size=1024, num_hidden_layers=7, num_attention_heads=6
    )
    image = {"tower": vision, "processor": CLIPImageProcessor(), "num_tokens": TOKENS}
    image["aligner"] = {"type": "perceiver_resampler", "depth": 2, "num_heads": 6}
    model, processor = compose(language, {"image": image}, tokenizer=tokenizer)
    print(set_trainable(model, "aligners", verbose=False))
    return model, processor


def samples(folder: Path, count: int) -> list[dict]:
    """Questions about photographs of 640 x 480 pixels (JPEG), with answers of 20 to 60 words."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        smooth = Image.fromarray(rng.integers(0, 255, (15, 20, 3), dtype=np.uint8)).resize((640, 480), 3)
        smooth.save(folder / f"{i}.jpg", quality=90)
        said = [" ".join(f"word{w}" for w in rng.integers(0, WORDS - 2, n)) for n in (12, rng.integers(20, 60))]
        content = [{"type": "image", "path": str(folder / f"{i}.jpg")}, {"type": "text", "text": f" {said[0]}"}]
        rows.append({"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": said[1]}]})
    return rows


def stepper(model, collate: Callable[[int], dict]) -> Callable[[int], float]:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0)  # no weight changes: all sides do the same work

    def step(index: int) -> float:
        model.train()
        loss = model(**collate(index)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rounds", 5), ("batch", 8), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, processor = build()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = samples(folder, arguments.batch * arguments.rounds)
        start = time.perf_counter()
        build_features(model, processor, rows, folder / "store", batch_size=arguments.batch, verbose=False)
        built = time.perf_counter() - start
        size = sum(file.stat().st_size for file in folder.glob("store/*/*.safetensors")) / 2**20
        stored = AnyModalityDataCollator(processor, features=FeatureStore(folder / "store", model))
        read = AnyModalityDataCollator(processor)
        batches = [rows[i : i + arguments.batch] for i in range(0, len(rows), arguments.batch)]
        ready = [stored(batch) for batch in batches]
        sides = {
            "tower": stepper(model, lambda i: read(batches[i])),
            "store": stepper(model, lambda i: stored(batches[i])),
            "none": stepper(model, lambda i: ready[i]),
        }
        losses = [step(0) for step in sides.values()]  # agreement first; and the warm-up
        assert max(losses) - min(losses) < 1e-4, losses
        times: dict[str, list[float]] = {side: [] for side in sides}
        for index in range(arguments.rounds):
            for side, step in sides.items():
                start = time.perf_counter()
                step(index)
                times[side].append(time.perf_counter() - start)
    print(f"{platform.processor() or platform.machine()}, {arguments.threads} threads, batch {arguments.batch}")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, float32, sdpa")
    print(f"store: {len(rows)} images in {built:.1f} s, {size:.0f} MB")
    ratios = {}
    for side in ("tower", "store"):
        found = sorted(mine / none for mine, none in zip(times[side], times["none"], strict=True))
        ratios[side] = found
        print(
            f"{side:>6} / none = {statistics.median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f}); "
            f"{statistics.median(times[side]):.2f} s against {statistics.median(times['none']):.2f} s a step"
        )
    output = Path("outputs") / "benchmarks" / "feature_store.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    results = {"seconds": times, "ratios": ratios, "parts": parts_table(model)}
    output.write_text(json.dumps({"settings": vars(arguments), **results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
