"""IMU2CLIP (arXiv 2210.14395): encoders of IMU signals, trained towards CLIP's embeddings of what a head camera sees.

Recordings are accelerometer x, y, z and gyroscope x, y, z, five seconds at 200 Hz, in the sensor's units. No weights were
released; these towers are for users who train their own with the original code.
"""

from collections import OrderedDict

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..utils.part_model import Attention, PartModel, eager_attention_forward
from ..utils.upstream import capture_outputs, merge_with_config_defaults
from ._build import register_tower


_KERNELS, _DILATION, _POOL = (10, 5, 5), 2, 3


class Imu2ClipConfig(PreTrainedConfig):
    """
    Args:
        hidden_size: width of the GRU and of the embedding.
        conv_channels: channels of the convolutions. The GRU reads one channel after the other; a channel's time steps are
            its features. So `context_length` must leave as many time steps as there are channels (else ValueError).
        context_length: samples of a recording.
        channels_first: recordings are `(channels, samples)`; passed to the feature extractor.
    """

    model_type = "imu2clip"

    hidden_size: int = 512
    conv_channels: int = 32
    num_channels: int = 6
    context_length: int = 1000
    channels_first: bool = True
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if (steps := self.steps(self.context_length)) != self.conv_channels:
            raise ValueError(
                f"context_length {self.context_length} leaves {steps} time steps, but conv_channels is "
                f"{self.conv_channels}; the two must be equal, because the encoder's GRU takes a channel's time steps as "
                "its features. 1000 samples leave 32."
            )

    @staticmethod
    def steps(length: int) -> int:
        """Time steps that the convolutions leave of `length` samples; if below 1, the input is too short."""
        for kernel in _KERNELS:
            length = (length - (kernel - 1) * _DILATION) // _POOL
        return length

    @staticmethod
    def shortest(conv_channels: int) -> int:
        """The least `context_length` for `conv_channels`."""
        steps = conv_channels
        for kernel in reversed(_KERNELS):
            steps = steps * _POOL + (kernel - 1) * _DILATION
        return steps


class Imu2ClipBlock(nn.Sequential):
    def __init__(self, channels_in: int, channels_out: int, kernel: int):
        conv = nn.Conv1d(channels_in, channels_out, kernel, dilation=_DILATION, bias=False)
        super().__init__(OrderedDict(conv=conv, pool=nn.MaxPool1d(_POOL)))


@register_tower
class Imu2ClipModel(PartModel):
    """The encoder that the original trains by default: norm, three convolutions without non-linearity, norm, GRU."""

    config: Imu2ClipConfig
    main_input_name = "input_values"
    _can_compile_fullgraph = False  # torch does not trace a GRU by default

    def __init__(self, config: Imu2ClipConfig):
        super().__init__(config)
        channels = config.conv_channels
        self.input_norm = nn.GroupNorm(2, config.num_channels)
        self.blocks = nn.Sequential(
            *(Imu2ClipBlock(channels if i else config.num_channels, channels, k) for i, k in enumerate(_KERNELS))
        )
        self.norm = nn.GroupNorm(4, channels)
        self.gru = nn.GRU(channels, config.hidden_size, batch_first=True)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.GRU):  # as torch does
            bound = module.hidden_size**-0.5
            for parameter in module.parameters():
                init.uniform_(parameter, -bound, bound)

    @merge_with_config_defaults
    @capture_outputs
    def forward(self, input_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """`input_values (items, channels, samples)` -> `last_hidden_state (items, conv_channels, hidden_size)`, the
        GRU's states, and `pooler_output`, the last one."""
        if input_values.shape[-1] != self.config.context_length:
            raise ValueError(
                f"Recordings of {input_values.shape[-1]} samples, but this encoder can only read "
                f"{self.config.context_length}: its GRU takes a channel's time steps as its features."
            )
        values = self.blocks(self.input_norm(input_values))
        # The GRU takes channels as its steps; the original does not transpose either.
        states, _ = self.gru(self.norm(values))
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=states[:, -1])


class Imu2ClipPatchTransformerConfig(PreTrainedConfig):
    """
    Args:
        patch_size: samples of a patch; an incomplete last patch is not read.
        class_token: a learned first token; its last state is the embedding. Without it, the mean of all states is.
        context_length, channels_first: as in `Imu2ClipConfig`; any length can be read.
    """

    model_type = "imu2clip_patch_transformer"

    hidden_size: int = 512
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    hidden_act: str = "relu"
    layer_norm_eps: float = 1e-5
    dropout: float = 0.1
    patch_size: int = 16
    class_token: bool = True
    num_channels: int = 6
    context_length: int = 1000
    channels_first: bool = True
    initializer_range: float = 0.02


class Imu2ClipAttention(Attention):
    def __init__(self, config: Imu2ClipPatchTransformerConfig):
        super().__init__(config, config.hidden_size // config.num_attention_heads)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, name, nn.Linear(config.hidden_size, config.hidden_size))

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(b, n, dim)` -> `(b, n, dim)` and the weights, if the implementation gives them."""
        states = (self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states))
        heads = [one.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for one in states]
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.dropout if self.training else 0.0
        attended, weights = attend(self, *heads, None, dropout=dropout, scaling=self.scaling)
        return self.out_proj(attended.flatten(2)), weights


class Imu2ClipLayer(GradientCheckpointingLayer):
    def __init__(self, config: Imu2ClipPatchTransformerConfig):
        super().__init__()
        self.self_attn = Imu2ClipAttention(config)
        self.linear1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act = ACT2FN[config.hidden_act]
        self.linear2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.norm1(hidden_states + self.dropout(self.self_attn(hidden_states)[0]))
        inner = self.dropout(self.act(self.linear1(hidden_states)))
        return self.norm2(hidden_states + self.dropout(self.linear2(inner)))


@register_tower
class Imu2ClipPatchTransformerModel(PartModel):
    """The original's other encoder: a transformer over patches, without positions."""

    config: Imu2ClipPatchTransformerConfig
    main_input_name = "input_values"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Imu2ClipLayer"]
    _can_record_outputs = {"hidden_states": Imu2ClipLayer, "attentions": Imu2ClipAttention}

    def __init__(self, config: Imu2ClipPatchTransformerConfig):
        super().__init__(config)
        patch = config.num_channels * config.patch_size
        self.patch_embedding = nn.Linear(patch, config.hidden_size, bias=False)
        token = nn.Parameter(torch.empty(1, 1, config.hidden_size)) if config.class_token else None
        self.register_parameter("class_embedding", token)
        self.layers = nn.ModuleList(Imu2ClipLayer(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(self, input_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """`input_values (items, channels, samples)` -> `last_hidden_state (items, tokens, hidden_size)` and
        `pooler_output`, the class token's state or the mean."""
        size = self.config.patch_size
        if input_values.shape[-1] < size:
            raise ValueError(
                f"Recordings of {input_values.shape[-1]} samples are shorter than a patch ({size} samples)."
            )
        tokens = self.patch_embedding(input_values.unfold(-1, size, size).transpose(1, 2).flatten(2))
        if self.class_embedding is not None:
            tokens = torch.cat((self.class_embedding.expand(tokens.shape[0], -1, -1), tokens), dim=1)
        for layer in self.layers:
            tokens = layer(tokens)
        pooled = tokens.mean(1) if self.class_embedding is None else tokens[:, 0]
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=pooled)
