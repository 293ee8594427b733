"""The published systems' steps between media and language model, in plain PyTorch over the parts of a composite.

Attention is written out if the original's own code writes it out, and is PyTorch's if it calls that. Towers that the
originals take from Transformers are called unchanged. So is the language model, which is the same on both sides, with
today's attention and cache. So a ratio shows only a system's own code.
"""

import math
from typing import Any

import torch
from torch import nn

from transformers_anymodality import AnyModalityForCausalLM

from ._ratio import DEVICE, DTYPE


class Original:
    """A published forward pass over the parts of `model`."""

    names: tuple[str, ...]

    def __init__(self, model: AnyModalityForCausalLM):
        self.model, self.table = model, model.get_input_embeddings()

    def tokens(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Media of a modality -> their embeddings, `(items, tokens, hidden)`."""
        raise NotImplementedError

    def embeddings(self, ids: torch.Tensor, media: dict[str, torch.Tensor]) -> torch.Tensor:
        embeddings = self.table(ids).clone()
        for name in self.names:
            row = self.model.config.modalities[name]
            embeddings[ids == row.token_id] = self.tokens(name, media[row.main_input]).flatten(0, 1)
        return embeddings

    def forward(self, ids: torch.Tensor, media: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.model.language_model(inputs_embeds=self.embeddings(ids, media)).logits

    def generate(self, ids: torch.Tensor, media: dict[str, torch.Tensor], **settings: Any) -> torch.Tensor:
        """Only the new words."""
        embeddings = self.embeddings(ids, media)
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device)
        return self.model.language_model.generate(inputs_embeds=embeddings, attention_mask=mask, **settings)


def _heads(states: torch.Tensor, width: int) -> torch.Tensor:
    """`(items, length, heads * width)` -> `(items, heads, length, width)`."""
    return states.unflatten(-1, (-1, width)).transpose(1, 2)


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Attention written out, `(items, heads, length, width)` each; a zero mask is still added to the scores."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = scores + mask
    return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


def _nothing_masked(states: torch.Tensor) -> torch.Tensor:
    return (1.0 - torch.ones(states.shape[:2], device=states.device, dtype=states.dtype))[:, None, None] * -10000.0


def _with_class(tower: nn.Module, values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    patches = tower.embeddings.patch_embedding(values).flatten(2).transpose(1, 2)
    first = tower.embeddings.class_embedding.expand(len(patches), 1, -1)
    return torch.cat((first, patches), dim=1) + positions


class MacawLlm(Original):
    """The current graph. The table of positions is filled number by number in Python at each pass, and
    `nn.MultiheadAttention` reads the token table, repeated for every sample."""

    names = ("image", "audio", "video")

    def __init__(self, model: AnyModalityForCausalLM):
        super().__init__(model)
        self.words = self.table.weight[: model.image_aligner.config.attended_rows]
        self.align = {name: self.attention(model.aligner(name).align_attention) for name in self.names}
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
        items = len(values)
        states = self.model.tower(name)(values.flatten(0, 1) if name == "video" else values).last_hidden_state
        return self.aligned(name, states.unflatten(0, (items, -1)))

    def aligned(self, name: str, features: torch.Tensor) -> torch.Tensor:
        """Aligns features `(items, frames, length, dim)`."""
        aligner = self.model.aligner(name)
        states = aligner.visual_projection(features)[:, :, 0 if name == "audio" else 1 :].flatten(1, 2)
        if name == "video":
            states = (states + self.positions(*states.shape[1:]).to(states)).transpose(0, 1)
            states = self.long(states, states, states)[0].transpose(0, 1)
        states = aligner.projection(aligner.conv(states.transpose(1, 2)).transpose(1, 2))
        table = self.words.unsqueeze(1).repeat(1, len(states), 1)
        return self.align[name](states.transpose(0, 1), table, table)[0].transpose(0, 1)


class AnyMal(Original):
    """No code was released: this is Flamingo's resampler as in its public implementations, after Transformers' towers. Keys
    and values are one projection; the greatest score is subtracted before the softmax."""

    names = ("image", "video")

    def __init__(self, model: AnyModalityForCausalLM):
        super().__init__(model)
        self.keys_values = {
            name: [torch.cat((one.attention.k_proj.weight, one.attention.v_proj.weight)) for one in self.layers(name)]
            for name in self.names
        }

    def layers(self, name: str) -> Any:
        return self.model.aligner(name).layers

    def tokens(self, name: str, values: torch.Tensor) -> torch.Tensor:
        aligner, media = self.model.aligner(name), self.model.tower(name)(values).last_hidden_state
        latents = aligner.latents.repeat(len(media), 1, 1)
        for layer, keys_values in zip(self.layers(name), self.keys_values[name], strict=True):
            part = layer.attention
            own = part.norm_latents(latents)
            both = nn.functional.linear(torch.cat((part.norm_media(media), own), dim=1), keys_values)
            key, value = (_heads(one, part.head_dim) for one in both.chunk(2, dim=-1))
            query = _heads(part.q_proj(own), part.head_dim) * part.head_dim**-0.5
            scores = torch.einsum("bhid,bhjd->bhij", query, key)
            shares = (scores - scores.amax(-1, keepdim=True).detach()).softmax(-1)
            read = torch.einsum("bhij,bhjd->bhid", shares, value).transpose(1, 2).flatten(2)
            latents = part.o_proj(read) + latents
            latents = layer.down_proj(nn.functional.gelu(layer.up_proj(layer.norm(latents)))) + latents
        return aligner.projection(aligner.norm(latents))


class PandaGpt(Original):
    """Its copy of ImageBind, with PyTorch's own attention, sequence first. Tokens of all media are added to one, which
    stands between pieces of text."""

    names = ("image", "audio")

    def __init__(self, model: AnyModalityForCausalLM):
        super().__init__(model)
        self.attentions = {name: [self.attention(one.attn) for one in model.tower(name).layers] for name in self.names}

    @staticmethod
    def attention(ours: Any) -> nn.MultiheadAttention:
        width, biased = ours.out_proj.in_features, ours.bias_k is not None
        theirs = nn.MultiheadAttention(width, width // ours.head_dim, add_bias_kv=biased)
        projections = (ours.q_proj, ours.k_proj, ours.v_proj)
        weights = {
            "in_proj_weight": torch.cat([one.weight for one in projections]),
            "in_proj_bias": torch.cat([one.bias for one in projections]),
            "out_proj.weight": ours.out_proj.weight,
            "out_proj.bias": ours.out_proj.bias,
        }
        theirs.load_state_dict(weights | ({"bias_k": ours.bias_k, "bias_v": ours.bias_v} if biased else {}))
        return theirs.to(DEVICE, DTYPE).eval()

    def embedded(self, name: str, values: torch.Tensor) -> torch.Tensor:
        tower = self.model.tower(name)
        stem = tower.embeddings
        if name == "image":
            values = values.unsqueeze(2).repeat(1, 1, stem.tubelet_size, 1, 1)
        patches = stem.patch_embedding(values).flatten(2).transpose(1, 2)
        patches = patches if name == "image" else stem.norm(patches)
        states = (
            torch.cat((stem.class_embedding.expand(len(patches), -1, -1), patches), dim=1) + stem.position_embedding
        )
        states = tower.pre_norm(states).transpose(0, 1)
        for layer, attention in zip(tower.layers, self.attentions[name], strict=True):
            normed = layer.norm_1(states)
            states = states + attention(normed, normed, normed, need_weights=False)[0]
            states = states + layer.mlp(layer.norm_2(states))
        return nn.functional.normalize(tower.head(states.transpose(0, 1)[:, 0]), dim=-1)

    def tokens(self, name: str, values: torch.Tensor) -> torch.Tensor:
        clips = values.ndim > 4
        embedded = self.embedded(name, values.flatten(0, 1) if clips else values)
        embedded = embedded.unflatten(0, (len(values), -1)).mean(1) if clips else embedded
        return self.model.aligner(name).projection(embedded).unsqueeze(1)

    def embeddings(self, ids: torch.Tensor, media: dict[str, torch.Tensor]) -> torch.Tensor:
        rows = self.model.config.modalities
        found = [self.tokens(name, media[rows[name].main_input]) for name in self.names]
        summed = torch.stack(found).sum(0)
        return torch.cat((self.table(ids[:, :1]), summed, self.table(ids[:, 1 + len(found) :])), dim=1)


class MplugOwl(Original):
    """Its own ViT and abstractor. Queries, keys and values of a head are side by side in one projection."""

    names = ("image",)

    def __init__(self, model: AnyModalityForCausalLM):
        super().__init__(model)
        self.joined = [self.join(layer.self_attn) for layer in model.image_tower.layers]

    @staticmethod
    def join(ours: Any) -> tuple[torch.Tensor, torch.Tensor]:
        parts = (ours.q_proj, ours.k_proj, ours.v_proj)
        weights = [one.weight.unflatten(0, (-1, ours.head_dim)) for one in parts]
        biases = [one.bias.unflatten(0, (-1, ours.head_dim)) for one in parts]
        return torch.stack(weights, dim=1).flatten(0, 2), torch.stack(biases, dim=1).flatten()

    def features(self, values: torch.Tensor) -> torch.Tensor:
        tower = self.model.image_tower
        states = tower.pre_layernorm(_with_class(tower, values, tower.embeddings.position_embedding.weight))
        for layer, joined in zip(tower.layers, self.joined, strict=True):
            mixed = nn.functional.linear(layer.layer_norm1(states), *joined)
            mixed = mixed.unflatten(-1, (-1, 3, layer.self_attn.head_dim)).permute(3, 0, 2, 1, 4)
            states = states + layer.self_attn.out_proj(_attend(*mixed, mask=None))
            inner = layer.mlp.fc1(layer.layer_norm2(states))
            states = states + layer.mlp.fc2(inner * torch.sigmoid(1.702 * inner))
        return tower.post_layernorm(states)

    def tokens(self, name: str, values: torch.Tensor) -> torch.Tensor:
        aligner, features = self.model.aligner(name), self.features(values)
        states = aligner.queries.expand(len(features), -1, -1)
        mask = _nothing_masked(torch.cat((states, features), dim=1))
        for layer in aligner.layers:
            part = layer.attention
            queries = part.norm1(states)
            both = torch.cat((queries, part.normk(features)), dim=1)
            read = (part.q_proj(queries), part.k_proj(both), part.v_proj(both))
            states = queries + part.out_proj(_attend(*(_heads(one, part.head_dim) for one in read), mask))
            normed = layer.norm2(states)
            gated = nn.functional.silu(layer.w1(normed)) * layer.w3(normed)
            states = states + layer.w2(layer.ffn_ln(gated))
        return torch.cat((aligner.visual_fc(states), aligner.end_token.expand(len(states), 1, -1)), dim=1)


class XLlm(Original):
    """Its EVA ViT, which joins the bias of its projection at each pass, and BERT's layers for queries."""

    names = ("image",)

    def features(self, values: torch.Tensor) -> torch.Tensor:
        tower = self.model.image_tower
        states = _with_class(tower, values, tower.embeddings.position_embedding)
        for layer in tower.encoder.layers:
            part = layer.self_attn
            first, _, last = part.qkv.bias.chunk(3)
            bias = torch.cat((first, torch.zeros_like(last), last))
            mixed = nn.functional.linear(layer.layer_norm1(states), part.qkv.weight, bias)
            mixed = mixed.unflatten(-1, (3, part.num_heads, -1)).permute(2, 0, 3, 1, 4)
            states = states + part.projection(_attend(*mixed, mask=None))
            states = states + layer.mlp.fc2(nn.functional.gelu(layer.mlp.fc1(layer.layer_norm2(states))))
        return self.model.image_aligner.feature_norm(states)

    def tokens(self, name: str, values: torch.Tensor) -> torch.Tensor:
        aligner, features = self.model.aligner(name), self.features(values)
        states = aligner.qformer_layers.layernorm(aligner.queries.expand(len(features), -1, -1))
        masks = _nothing_masked(states), _nothing_masked(features)
        for layer in aligner.qformer_layers.encoder.layer:
            states = self.read(layer.attention, states, states, masks[0])
            if layer.has_cross_attention:
                states = self.read(layer.crossattention, states, features, masks[1])
            inner = nn.functional.gelu(layer.intermediate_query.dense(states))
            states = layer.output_query.LayerNorm(layer.output_query.dense(inner) + states)
        return aligner.projection(states)

    @staticmethod
    def read(part: Any, states: torch.Tensor, context: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        own, width = part.attention, part.attention.attention_head_size
        heads = (_heads(own.query(states), width), _heads(own.key(context), width), _heads(own.value(context), width))
        return part.output.LayerNorm(part.output.dense(_attend(*heads, mask)) + states)
