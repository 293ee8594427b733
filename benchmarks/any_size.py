"""A batch of short and long media against the same media one by one: mixing lengths should not add cost.

Towers and aligners of each kind (patches of all images as one row, tiles, windows of audio, frames per second) encode a
batch, and each of its media alone. The rival is the sum of the single runs. Outputs are compared first.

    .venv/bin/python benchmarks/any_size.py [--rounds 9] [--threads 1]
"""

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers


sys.path.insert(0, str(Path(__file__).parents[1]))

from modeling_tests import any_size, tiny  # noqa: E402

from transformers_anymodality.model.frames import take_media  # noqa: E402


# Media of one batch: many short ones and a long one.
MEDIA = {
    "image": [
        any_size.image(24, 32, 1),
        any_size.image(32, 24, 2),
        any_size.image(16, 200, 3),
        any_size.image(200, 240, 4),
    ],
    "document": [
        any_size.image(32, 32, 1),
        any_size.image(30, 34, 2),
        any_size.image(40, 160, 3),
        any_size.image(100, 100, 4),
    ],
    "audio": [any_size.sound(0.2, 1), any_size.sound(0.5, 2), any_size.sound(1.0, 3), any_size.sound(4.0, 4)],
    "video": [any_size.video(1, 1), any_size.video(1, 2), any_size.video(2, 3), any_size.video(12, 4)],
}
ALIGNERS: dict[str, Any] = {
    "linear": "linear",
    "mlp, stride 4": {"type": "mlp", "pool": "stride", "pool_size": 4},
    "perceiver_resampler": {"type": "perceiver_resampler", "num_tokens": 32, "depth": 2},
    "qformer": {
        "type": "qformer",
        "num_tokens": 32,
        "depth": 2,
        "num_heads": 4,
        "qformer_hidden_size": 128,
        "intermediate_size": 256,
    },
}


def settings(aligner: Any) -> dict[str, Any]:
    """Settings with towers that are large enough for layers to cost more than Python."""
    own = any_size.modalities(aligner)
    own["image"]["tower"].update(
        dict(hidden_size=256, intermediate_size=1024, num_heads=4, depth=6, fullatt_block_indexes=[2, 5])
    )
    own["document"]["tower"] = tiny.vision_config(
        hidden_size=256, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=4, patch_size=2
    )
    own["audio"]["tower"].update(dict(d_model=256, encoder_layers=6, encoder_ffn_dim=1024, encoder_attention_heads=4))
    own["video"]["max_frames"] = 12
    return own


@torch.no_grad()
def compared(model, processor, modality: str, rounds: int) -> dict[str, Any]:
    inputs, counts = processor.process_media({modality: MEDIA[modality]})
    items = range(len(MEDIA[modality]))
    alone = [take_media(modality, processor.modalities[modality], inputs, [i]) for i in items]
    owners = model.config.media_arguments

    def encode(given) -> Any:
        arguments = {owners[name][1]: value for name, value in given.items()}
        return model.get_modality_features(modality, **arguments, return_dict=True).pooler_output

    for i, tokens in enumerate(encode(inputs)):
        torch.testing.assert_close(tokens, encode(alone[i])[0], atol=1e-4, rtol=1e-3)
    ratios = []
    for _ in range(rounds):
        start = time.perf_counter()
        encode(inputs)
        middle = time.perf_counter()
        for one in alone:
            encode(one)
        ratios.append((middle - start) / (time.perf_counter() - middle))
    return {"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios), "tokens": counts[modality]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="Rounds, alternating between both sides")
    parser.add_argument("--threads", type=int, default=1, help="Threads of torch")
    parser.add_argument("--output", default="outputs/any_size.json", help="File for the results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"torch {torch.__version__}, Transformers {transformers.__version__}, {platform.processor() or platform.machine()}"
    )
    any_size.register_document()
    results: dict[str, dict[str, Any]] = {}
    for name, aligner in ALIGNERS.items():
        model, processor = tiny.composite(settings=settings(aligner))
        results[name] = {modality: compared(model, processor, modality, options.rounds) for modality in MEDIA}
        for modality, found in results[name].items():
            spread = f"{found['least']:.2f} to {found['most']:.2f}"
            print(
                f"{name:<22}{modality:<10}batch / one by one: {found['ratio']:.2f} ({spread}), tokens {found['tokens']}"
            )
    path = Path(options.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
