"""The transformer layers that all of ImageBind's towers share, and the embeddings of each kind of input."""

import math
from collections import OrderedDict

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ...utils.part_model import Attention, eager_attention_forward
from .configuration import ImageBindAudioConfig, ImageBindTextConfig, ImageBindTowerConfig


class ImageBindAttention(Attention):
    """Self-attention; `kv_bias` adds one learned key and value, which are not projected."""

    def __init__(self, config: ImageBindTowerConfig):
        super().__init__(config, config.hidden_size // config.num_attention_heads)
        self.is_causal = isinstance(config, ImageBindTextConfig)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, name, nn.Linear(config.hidden_size, config.hidden_size))
        for name in ("bias_k", "bias_v"):
            setattr(self, name, nn.Parameter(torch.empty(1, 1, config.hidden_size)) if config.kv_bias else None)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`hidden_states (b, n, dim)` -> `(b, n, dim)` and the weights, if the implementation gives them."""
        key, value = self.k_proj(hidden_states), self.v_proj(hidden_states)
        if self.bias_k is not None:
            key = torch.cat((key, self.bias_k.expand(key.shape[0], -1, -1)), dim=1)
            value = torch.cat((value, self.bias_v.expand(value.shape[0], -1, -1)), dim=1)
        states = (self.q_proj(hidden_states), key, value)
        heads = [one.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for one in states]
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        attended, weights = attend(self, *heads, attention_mask, scaling=self.scaling, **kwargs)
        return self.out_proj(attended.flatten(2)), weights


class ImageBindLayer(GradientCheckpointingLayer):
    def __init__(self, config: ImageBindTowerConfig, index: int):
        super().__init__()
        self.drop_path_rate = config.drop_path_rate * index / max(config.num_hidden_layers - 1, 1)
        self.norm_1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = ImageBindAttention(config)
        self.norm_2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(config.hidden_size, config.intermediate_size),
                act=ACT2FN[config.hidden_act],
                fc2=nn.Linear(config.intermediate_size, config.hidden_size),
            )
        )

    def drop_path(self, branch: torch.Tensor) -> torch.Tensor:
        """Stochastic depth (arXiv 1603.09382): in training the branch is left out for some of the rows."""
        if not (self.training and self.drop_path_rate):
            return branch
        kept = torch.rand(branch.shape[0], 1, 1, device=branch.device) >= self.drop_path_rate
        return branch * kept.to(branch.dtype) / (1 - self.drop_path_rate)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs) -> torch.Tensor:
        attended, _ = self.attn(self.norm_1(hidden_states), attention_mask, **kwargs)
        hidden_states = hidden_states + self.drop_path(attended)
        return hidden_states + self.drop_path(self.mlp(self.norm_2(hidden_states)))


class ImageBindScale(nn.Module):
    def __init__(self, config: ImageBindTowerConfig):
        super().__init__()
        self.start = config.logit_scale
        self.log_logit_scale = nn.Parameter(torch.empty(())) if config.learn_logit_scale else None

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        embeddings = nn.functional.normalize(embeddings, dim=-1)
        if self.log_logit_scale is not None:
            return embeddings * self.log_logit_scale.exp().clamp(max=100.0)
        return embeddings if self.start is None else embeddings * min(self.start, 100.0)


class ImageBindEmbeddings(nn.Module):
    """Tokens of an input: a class token, then its patches, with learned positions. `grid` is their `(time, side, side)`;
    any other shape cannot be stretched."""

    def __init__(self, config: ImageBindTowerConfig, grid: tuple[int, ...]):
        super().__init__()
        self.grid = grid
        self.class_embedding = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.position_embedding = nn.Parameter(torch.empty(1, 1 + math.prod(grid), config.hidden_size))

    def patches(self, values: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
        """`(rows, patches, dim)`, and their grid."""
        raise NotImplementedError

    def positions(self, grid: tuple[int, ...]) -> torch.Tensor:
        """The table `(1, 1 + patches, dim)`, stretched for images of another size than the tower was made for."""
        table = self.position_embedding
        if grid == self.grid:
            return table
        resizable = len(grid) == 3 and grid[0] == 1 and grid[1] == grid[2]
        if not resizable or self.grid[1] != self.grid[2]:
            raise ValueError(
                f"The input has a grid of {grid} patches, but the tower expects {self.grid}; another size works only for "
                "square images."
            )
        side = self.grid[1]
        first_frame = table[:, 1 : 1 + side * side].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        stretched = nn.functional.interpolate(first_frame.float(), size=grid[1:], mode="bicubic").to(table.dtype)
        return torch.cat((table[:, :1], stretched.flatten(2).transpose(1, 2)), dim=1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        patches, grid = self.patches(values)
        tokens = torch.cat((self.class_embedding.expand(patches.shape[0], -1, -1), patches), dim=1)
        return tokens + self.positions(grid)


class ImageBindVisionEmbeddings(ImageBindEmbeddings):
    def __init__(self, config):
        side = config.image_size // config.patch_size
        super().__init__(config, (config.video_frames // config.tubelet_size, side, side))
        self.tubelet_size = config.tubelet_size
        kernel = (config.tubelet_size, config.patch_size, config.patch_size)
        self.patch_embedding = nn.Conv3d(config.num_channels, config.hidden_size, kernel, stride=kernel, bias=False)

    def patches(self, values: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
        """Patches of `(rows, channels, height, width)` or `(rows, channels, frames, height, width)`."""
        values = values.unsqueeze(2) if values.ndim == 4 else values
        if values.shape[2] == 1:
            values = values.expand(-1, -1, self.tubelet_size, -1, -1)
        maps = self.patch_embedding(values)
        return maps.flatten(2).transpose(1, 2), tuple(maps.shape[2:])


class ImageBindMapEmbeddings(ImageBindEmbeddings):
    """Embeddings of images with one channel, and of spectrograms; patches may overlap."""

    def __init__(self, config):
        if isinstance(config, ImageBindAudioConfig):
            size, stride = (config.num_mel_bins, config.target_length), config.patch_stride
        else:
            size, stride = (config.image_size, config.image_size), config.patch_size
        super().__init__(config, (1, *((side - config.patch_size) // stride + 1 for side in size)))
        self.patch_embedding = nn.Conv2d(
            config.num_channels, config.hidden_size, config.patch_size, stride=stride, bias=False
        )
        self.norm = nn.LayerNorm(config.hidden_size)

    def patches(self, values: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
        """Patches of `(rows, channels, height, width)`."""
        maps = self.patch_embedding(values)
        return self.norm(maps.flatten(2).transpose(1, 2)), (1, *maps.shape[2:])


class ImageBindImuEmbeddings(ImageBindEmbeddings):
    def __init__(self, config):
        super().__init__(config, (config.context_length // config.patch_size,))
        self.patch_size = config.patch_size
        self.patch_embedding = nn.Linear(config.num_channels * config.patch_size, config.hidden_size, bias=False)
        self.norm = nn.LayerNorm(config.hidden_size)

    def patches(self, values: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
        """Patches of `(rows, channels, samples)`: the samples of the first channel, then those of the next."""
        patches = values.unfold(-1, self.patch_size, self.patch_size).transpose(1, 2).flatten(2)
        return self.norm(self.patch_embedding(patches)), (patches.shape[1],)


class ImageBindTextEmbeddings(nn.Module):
    def __init__(self, config: ImageBindTextConfig):
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Parameter(torch.empty(1, config.max_position_embeddings, config.hidden_size))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        count, most = input_ids.shape[-1], self.position_embedding.shape[1]
        if count > most:
            raise ValueError(f"The text has {count} tokens, but the tower reads at most {most}.")
        return self.token_embedding(input_ids) + self.position_embedding[:, :count]
