"""Macaw-LLM (the current graph, all three modalities) against a re-statement of the original's forward pass.

The rival has the same weights, towers and language model, and aligns as the published code does: the table of positions
is filled number by number in Python at each pass, and `nn.MultiheadAttention` reads the token table repeated for every
sample. Both do one forward pass over a prompt, and a prompt and 32 new tokens.

    .venv/bin/python benchmarks/macaw.py [--rounds 5] [--batch 2] [--threads 2]
"""

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig, PreTrainedTokenizerFast, WhisperConfig

from transformers_anymodality import AnyModalityForCausalLM, compose
from transformers_anymodality.systems import macaw_llm


VOCABULARY, NEW_TOKENS, TEXT = 8000, 32, 64
MODALITIES = ("image", "audio", "video")


def build() -> AnyModalityForCausalLM:
    """At middle size, with random weights."""
    torch.manual_seed(0)
    words = {f"word{i}": i for i in range(VOCABULARY - 6)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, "word0")), bos_token="word1", eos_token="word2"
    )
    vision = dict(hidden_size=384, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=6, patch_size=16)
    whisper = dict(d_model=384, encoder_layers=6, encoder_attention_heads=6, encoder_ffn_dim=1536)
    language = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=512, intermediate_size=1376, num_hidden_layers=8, num_attention_heads=8
    )
    towers = {
        "image": CLIPVisionConfig(**vision),
        "video": CLIPVisionConfig(**vision),
        "audio": WhisperConfig(**whisper),
    }
    arguments = macaw_llm(language, tokenizer, graph="current", towers=towers, aligners={"image": {}, "video": {}})
    model, _ = compose(**arguments)
    return model.eval()


class Rival:
    """The published forward pass, over the parts of `model`."""

    def __init__(self, model: AnyModalityForCausalLM):
        self.model = model
        self.table = model.get_input_embeddings().weight[: model.image_aligner.config.attended_rows]
        self.align = {name: self.attention(model.aligner(name).align_attention) for name in MODALITIES}
        self.long = self.attention(model.video_aligner.self_attention)

    @staticmethod
    def attention(ours: nn.Module) -> nn.MultiheadAttention:
        theirs = nn.MultiheadAttention(
            ours.out_proj.in_features, ours.heads, dropout=0.1, add_bias_kv=True, add_zero_attn=True
        )
        theirs.load_state_dict(ours.state_dict())
        return theirs.eval()

    @staticmethod
    def positions(length: int, size: int) -> torch.Tensor:
        table = torch.zeros(length, size)
        for place in range(length):
            for i in range(0, size, 2):
                angle = place * math.exp(-math.log(10000.0) / size * (2 * i))
                table[place, i], table[place, i + 1] = math.sin(angle), math.cos(angle)
        return table

    def tokens(self, name: str, values: torch.Tensor) -> torch.Tensor:
        aligner, tower, frames = self.model.aligner(name), self.model.tower(name), None
        if name == "video":
            frames, values = values.shape[1], values.flatten(0, 1)
        states = tower(values).last_hidden_state
        states = aligner.visual_projection(states)[:, 0 if name == "audio" else 1 :]
        if frames is not None:
            states = states.unflatten(0, (-1, frames)).flatten(1, 2)
            states = (states + self.positions(*states.shape[1:])).transpose(0, 1)
            states = self.long(states, states, states)[0].transpose(0, 1)
        states = aligner.projection(aligner.conv(states.transpose(1, 2)).transpose(1, 2))
        table = self.table.unsqueeze(1).repeat(1, len(states), 1)
        return self.align[name](states.transpose(0, 1), table, table)[0].transpose(0, 1)

    def embeddings(self, ids: torch.Tensor, media: dict[str, torch.Tensor]) -> torch.Tensor:
        embeddings = self.model.get_input_embeddings()(ids).clone()
        for name in MODALITIES:
            row = self.model.config.modalities[name]
            embeddings[ids == row.token_id] = self.tokens(name, media[row.main_input]).flatten(0, 1)
        return embeddings

    def forward(self, ids: torch.Tensor, media: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.model.language_model(inputs_embeds=self.embeddings(ids, media)).logits

    def generate(self, ids: torch.Tensor, media: dict[str, torch.Tensor], **settings) -> torch.Tensor:
        embeddings = self.embeddings(ids, media)
        mask = torch.ones(ids.shape, dtype=torch.long)
        return self.model.language_model.generate(inputs_embeds=embeddings, attention_mask=mask, **settings)


def prompt(model: AnyModalityForCausalLM, batch: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    generator, media, front = torch.Generator().manual_seed(1), {}, []
    for name in MODALITIES:
        row, config = model.config.modalities[name], model.config.aligner_config(name)
        media[row.main_input] = torch.randn(batch, *row.input_shape, generator=generator)
        front += [row.token_id] * config.count_tokens(row.num_frames, row.feature_length)
    text = torch.randint(3, VOCABULARY - 6, (batch, TEXT), generator=generator)
    return torch.cat([text[:, :1], torch.tensor([front] * batch), text[:, 1:]], dim=1), media


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rounds", 5), ("batch", 2), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = build()
    rival = Rival(model)
    ids, media = prompt(model, arguments.batch)
    placeholders = model.config.placeholder_ids
    greedy = dict(max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)
    jobs = {
        "forward": (lambda: model(ids, **media).logits, lambda: rival.forward(ids, media)),
        "generate": (
            lambda: model.generate(ids, attention_mask=torch.ones_like(ids), **media, **greedy)[:, ids.shape[1] :],
            lambda: rival.generate(ids, media, suppress_tokens=placeholders, **greedy),
        ),
    }
    print(f"{platform.processor() or platform.machine()}, {arguments.threads} threads, batch {arguments.batch}")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, float32, sdpa; prompt {ids.shape[1]}")
    results = {}
    for name, (ours, theirs) in jobs.items():
        torch.testing.assert_close(ours(), theirs(), atol=1e-4, rtol=1e-4)  # agreement first; and the warm-up
        times = [(seconds(ours), seconds(theirs)) for _ in range(arguments.rounds)]
        ratios = sorted(mine / other for mine, other in times)
        results[name] = {"ratio": statistics.median(ratios), "ratios": ratios, "seconds": times}
        print(
            f"{name:>8}: ours / rival = {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}); "
            f"{statistics.median(t for t, _ in times):.2f} s against {statistics.median(t for _, t in times):.2f} s"
        )
    output = Path("outputs") / "benchmarks" / "macaw.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"settings": vars(arguments), **results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
