"""Published systems, against the originals' own steps restated in plain PyTorch over the same weights.

Here stands Macaw-LLM (the current graph, all three modalities): the rival aligns as the published code does. The table of
positions is filled number by number in Python at each pass, and `nn.MultiheadAttention` reads the token table repeated for
every sample. The other originals are not restated.

    python -m benchmarks.systems [--quick]
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionConfig, WhisperConfig

from transformers_anymodality import AnyModalityForCausalLM, compose
from transformers_anymodality.systems import macaw_llm

from . import _models as models
from ._ratio import DEVICE, DTYPE, Effort, Result, compare, main


TEXT = 64
MODALITIES = ("image", "audio", "video")


@torch.inference_mode()
def measure(effort: Effort) -> Iterator[Result]:
    model, new = build(effort), 2 if effort.tiny else 32
    rival = Rival(model)
    ids, media = prompt(model, 1)
    greedy: dict[str, Any] = dict(max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0)
    ours, hidden = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **media}, model.config.placeholder_ids
    torch.testing.assert_close(model(**ours).logits, rival.forward(ids, media), atol=1e-3, rtol=1e-3)
    found = compare(lambda: model(**ours), lambda: rival.forward(ids, media), effort)
    yield Result(9, "Macaw-LLM, forward", "the original's steps", found, 0.2)
    found = compare(
        lambda: model.generate(**ours, **greedy),
        lambda: rival.generate(ids, media, suppress_tokens=hidden, **greedy),
        effort,
    )
    yield Result(9, f"Macaw-LLM, {new} words", "the original's steps", found, 0.75)


def build(effort: Effort) -> AnyModalityForCausalLM:
    """At middle size, with random weights."""
    torch.manual_seed(0)
    sizes = models.Sizes(256, 2, 1000) if effort.tiny else models.Sizes(width=512, layers=8, words=8000)
    width, layers, heads = (64, 1, 1) if effort.tiny else (384, 8, 6)
    vision = dict(num_hidden_layers=layers, num_attention_heads=heads, patch_size=16)
    vision |= dict(hidden_size=width, intermediate_size=4 * width)
    whisper = dict(d_model=width, encoder_layers=layers, encoder_attention_heads=heads, encoder_ffn_dim=4 * width)
    whisper |= dict(decoder_attention_heads=heads)
    towers = {
        "image": CLIPVisionConfig(**vision),
        "video": CLIPVisionConfig(**vision),
        "audio": WhisperConfig(**whisper),
    }
    arguments = macaw_llm(
        models.language(sizes),
        models.tokenizer(sizes.words),
        graph="current",
        towers=towers,
        aligners={"image": {}, "video": {}},
    )
    model, _ = compose(**arguments)
    return model.to(DEVICE, DTYPE).eval()


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
        return theirs.to(DEVICE, DTYPE).eval()

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
            states = (states + self.positions(*states.shape[1:]).to(states)).transpose(0, 1)
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
        mask = torch.ones_like(ids)
        return self.model.language_model.generate(inputs_embeds=embeddings, attention_mask=mask, **settings)


def prompt(model: AnyModalityForCausalLM, batch: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    generator, media, front = torch.Generator().manual_seed(1), {}, []
    for name in MODALITIES:
        row, config = model.config.modalities[name], model.config.aligner_config(name)
        media[row.main_input] = torch.randn(batch, *row.input_shape, generator=generator).to(DEVICE, DTYPE)
        front += [row.token_id] * config.count_tokens(row.num_frames, row.feature_length)
    text = torch.randint(10, 900, (batch, TEXT), generator=generator)
    return torch.cat([text[:, :1], torch.tensor([front] * batch), text[:, 1:]], dim=1).to(DEVICE), media


if __name__ == "__main__":
    main(__doc__ or "", measure)
