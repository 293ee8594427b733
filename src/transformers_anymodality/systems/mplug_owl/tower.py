"""The vision tower of mPLUG-Owl (arXiv 2304.14178, section 3.1): CLIP's ViT-L/14, arranged as in the release.

The layers are Transformers' own CLIP layers. Unlike in CLIP, the last norm is applied to every token, the class token stays
among them, and the norms have an epsilon of 1e-6. In the video release, each layer has a module that mixes a patch with the
same patch of the neighbouring frames.
"""

import torch
from torch import nn
from transformers import CLIPVisionConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPEncoderLayer, CLIPPreTrainedModel, CLIPVisionEmbeddings

from ...towers import register_tower
from ...utils.upstream import capture_outputs, merge_with_config_defaults


class MplugOwlVisionConfig(CLIPVisionConfig):
    """CLIP's, with the published sizes.

    Args:
        temporal: build the modules that mix frames (the video release). Without them, frames are separate.
        doubles_class_token: where frames are mixed, the release adds each frame's class token to itself in every layer.
            After 24 layers it is 2^24 times as large: rounding loses what attention adds to it, and in float16 it overflows.
            The released weights were trained like this. Use False for weights of your own.
    """

    model_type = "mplug_owl_vision"

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    patch_size: int | list[int] | tuple[int, int] | None = 14
    layer_norm_eps: float = 1e-6
    temporal: bool = False
    doubles_class_token: bool = True


class MplugOwlTemporal(nn.Module):
    """A convolution over time at half the width, which a layer of the video release adds to each frame. The release's
    1 x 1 x 1 convolutions are linear layers here; its 3 x 1 x 1 convolution goes over time alone."""

    def __init__(self, config: MplugOwlVisionConfig):
        super().__init__()
        dim, inner = config.hidden_size, config.hidden_size // 2
        self.doubles_class_token = config.doubles_class_token
        self.norm = nn.LayerNorm(dim)  # the release leaves its epsilon at 1e-5
        self.down_proj = nn.Linear(dim, inner)
        self.conv = nn.Conv1d(inner, inner, 3, padding=1, groups=inner)
        self.act = ACT2FN["quick_gelu"]
        self.up_proj = nn.Linear(inner, dim)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """`(items, frames, 1 + patches, dim)`, class token first -> the sum's second term, of the same shape."""
        items, _, length, _ = frames.shape
        states = self.down_proj(self.norm(frames[:, :, 1:]))
        over_time = states.permute(0, 2, 3, 1).flatten(0, 1)  # (items * patches, dim / 2, frames)
        states = self.conv(over_time).unflatten(0, (items, length - 1)).permute(0, 3, 1, 2)
        first = frames[:, :, :1] if self.doubles_class_token else torch.zeros_like(frames[:, :, :1])
        return torch.cat((first, self.up_proj(self.act(states))), dim=2)


class MplugOwlVisionLayer(CLIPEncoderLayer):
    def __init__(self, config: MplugOwlVisionConfig):
        super().__init__(config)
        self.temporal = MplugOwlTemporal(config) if config.temporal else None

    def forward(self, hidden_states: torch.Tensor, num_frames: int = 1, **kwargs) -> torch.Tensor:
        """`(items, frames * length, dim)`: patches attend within their frame."""
        frames = hidden_states.unflatten(1, (num_frames, -1))
        if self.temporal is not None and num_frames > 1:
            frames = frames + self.temporal(frames)
        frames = super().forward(frames.flatten(0, 1), None, **kwargs)
        return frames.unflatten(0, (-1, num_frames)).flatten(1, 2)


@register_tower
class MplugOwlVisionModel(CLIPPreTrainedModel):
    """Reads images and, frames beside one another, videos: one object is the tower of both."""

    config_class = MplugOwlVisionConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities = ("image", "video")
    _input_embed_layer = "patch_embedding"
    _no_split_modules = ["MplugOwlVisionLayer", "CLIPVisionEmbeddings"]

    def __init__(self, config: MplugOwlVisionConfig):
        super().__init__(config)
        self.embeddings = CLIPVisionEmbeddings(config)
        self.pre_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(MplugOwlVisionLayer(config) for _ in range(config.num_hidden_layers))
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MplugOwlTemporal):  # at first, frames are apart
            init.zeros_(module.up_proj.weight)
            init.zeros_(module.up_proj.bias)

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """
        Args:
            pixel_values: images `(items, channels, height, width)` or videos `(items, frames, channels, height, width)`.

        Returns:
            `last_hidden_state (items, frames * (1 + patches), dim)`, normed, the class token first in every frame;
            `pooler_output (items, dim)`, the frames' mean class token, normed once more; `hidden_states`, not normed.
        """
        num_frames = pixel_values.shape[1] if pixel_values.ndim == 5 else 1
        states = self.pre_layernorm(self.embeddings(pixel_values.flatten(0, -4)))
        states = states.unflatten(0, (-1, num_frames)).flatten(1, 2)
        for layer in self.layers:
            states = layer(states, num_frames, **kwargs)
        states = self.post_layernorm(states)
        pooled = states.unflatten(1, (num_frames, -1))[:, :, 0].mean(1)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=self.post_layernorm(pooled))
