"""A feature store, filled by Ray Data: on one machine, or on all of a Ray cluster that share a file system.

    pip install "ray[data]"
    python examples/features_on_ray.py chats/*.jsonl --model my-model --output features/ --actors 16 --gpus 1

Ray reads the files in blocks, hands each actor the next one when it is ready, and so keeps fast and slow machines busy.
The store is that of `anymodality features build`: either goes on where the other ended, and training reads it as ever.
"""

import argparse
import json

import ray
import torch
from transformers import AutoProcessor

import transformers_anymodality  # noqa: F401
from transformers_anymodality.features import build_features
from transformers_anymodality.features.build import load_towers


def build(rows: ray.data.DataIterator, rank: int, arguments: argparse.Namespace) -> dict[str, int]:
    """The share of one actor: whatever blocks Ray gives it."""
    return build_features(
        load_towers(arguments.model).to("cuda" if torch.cuda.is_available() else "cpu"),
        AutoProcessor.from_pretrained(arguments.model),
        (json.loads(row["text"]) for row in rows.iter_rows()),
        arguments.output,
        media_root=arguments.media_root,
        on_error="skip",
        rank=rank,
        world_size=1,  # Ray has shared out the records
        verbose=False,
    )


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="JSONL of chats: files or folders, on disk or in a bucket")
    parser.add_argument("--model", required=True, help="the composite; its language model is not loaded")
    parser.add_argument("--output", required=True, help="the store, which every machine can write to")
    parser.add_argument("--media_root", help="folder that relative paths are in")
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of an actor")
    arguments = parser.parse_args(words)
    shares = ray.data.read_text(arguments.data).streaming_split(arguments.actors)
    # Builders that took all CPUs would leave none to Ray's own readers, for which they wait.
    actor = ray.remote(num_cpus=0, num_gpus=arguments.gpus)(build)
    counts = ray.get([actor.remote(share, rank, arguments) for rank, share in enumerate(shares)])
    print({name: max(count[name] for count in counts) for name in counts[0]})


if __name__ == "__main__":
    main()
